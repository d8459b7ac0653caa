"""Worker actors: the ranks of a tensor-parallel replica beyond the first, in the bundles of its placement group."""

import logging
from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.schema import ModelConfig
from engine.parallel.worker_commands import Rendezvous

__all__ = ["RankStarter", "RunWorker"]

logger = logging.getLogger(__name__)

RunWorker = Callable[[ModelConfig, int, Rendezvous], None]  # returns when the driver is gone


class Rank:
    """One worker rank's actor. It ends with its connection to the driver, at the latest with the replica."""

    def run(self, run_worker: RunWorker, model: ModelConfig, rank: int, rendezvous: Rendezvous) -> None:
        run_worker(model, rank, rendezvous)


class RankStarter:
    """Starts ranks for the replica in whose process it is called."""

    def __init__(self, model: ModelConfig, run_worker: RunWorker) -> None:
        self._model = model
        self._run_worker = run_worker
        self._ranks: list[Any] = []  # an actor lives as long as its handle

    @property
    def is_on_one_node(self) -> bool:
        """True if the placement group of this replica lies on a single node."""
        group = get_current_placement_group()
        if group is None:
            return True
        nodes = ray.util.placement_group_table(group)["bundles_to_node_id"].values()
        return len(set(nodes)) <= 1

    def start(self, rank: int, rendezvous: Rendezvous) -> None:
        resources, group = self._model.resources, get_current_placement_group()
        assert group is not None, "a replica of several ranks has a placement group"
        actor = ray.remote(Rank).options(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}},
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=rank
            ),
        )
        self._ranks.append(actor.remote())
        self._ranks[-1].run.remote(self._run_worker, self._model, rank, rendezvous)
