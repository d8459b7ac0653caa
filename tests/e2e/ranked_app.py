"""What stands behind the echo app when a replica shall have several ranks: a real engine with a tiny random model."""

from cluster.ranks import RankStarter
from configs.schema import ModelConfig
from engine.engine import Engine
from engine.parallel.worker_commands import Rendezvous

__all__ = ["run_ranked_worker", "load_ranked_engine"]


def load_ranked_engine(model: ModelConfig, cache_key: bytes, host: str, ranks: RankStarter) -> Engine:
    from engine.execution.tensor_parallel_executor import WorkerPlacement, start_driver

    first = start_driver(model, WorkerPlacement(host, ranks.is_on_one_node, ranks.start), cache_key=cache_key)
    return Engine(first, model.name, model.engine, cache_key)


def run_ranked_worker(model: ModelConfig, rank: int, rendezvous: Rendezvous) -> None:
    from engine.execution.tensor_parallel_executor import run_worker

    run_worker(model, rank, rendezvous)
