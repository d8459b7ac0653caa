"""Autoscaling policy: how many replicas a load needs. Pure; Serve applies its bounds and delays to the result.

Each target is a load per replica. The result is the largest number that any target asks for: sequences and used KV
blocks in proportion to their sums, and, while the time to first token is above its target, up to twice as many.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.types import EngineStatus

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

__all__ = ["Policy", "load_of", "desired_by_signal", "wanted_replicas"]


def load_of(status: EngineStatus) -> dict[str, float]:
    """The autoscaling stats of one replica, as `wanted_replicas` reads them."""
    return {
        "sequences": float(status.num_running + status.num_waiting),
        "cache_use": 1.0 - status.num_free_blocks / status.num_blocks,
        "first_token_s": status.first_token_s,
    }


def wanted_replicas(
    loads: Sequence[Mapping[str, float]],
    target_ongoing_requests: float,
    target_cache_use: float,
    target_first_token_s: float,
) -> float:
    """The number of replicas for which every target holds. `loads` has one entry per replica that reported."""
    return max(desired_by_signal(loads, target_ongoing_requests, target_cache_use, target_first_token_s).values())


def desired_by_signal(
    loads: Sequence[Mapping[str, float]],
    target_ongoing_requests: float,
    target_cache_use: float,
    target_first_token_s: float,
) -> dict[str, float]:
    """The number of replicas that each target asks for."""
    by_sequences = sum(load["sequences"] for load in loads) / target_ongoing_requests
    by_cache = sum(load["cache_use"] for load in loads) / target_cache_use
    late = max((load["first_token_s"] for load in loads), default=0.0) / target_first_token_s
    is_busy = by_sequences > 0  # the time to first token of a load that has ended does not count
    by_delay = len(loads) * min(2.0, late) if late > 1 and is_busy else 0.0
    return {"sequences": by_sequences, "cache_use": by_cache, "first_token_s": by_delay}


class Policy:
    """Serve's autoscaling policy class, named in cluster/deploy.py."""

    def __init__(self, target_ongoing_requests: float, target_cache_use: float, target_first_token_s: float) -> None:
        self._targets = (target_ongoing_requests, target_cache_use, target_first_token_s)

    def __call__(self, context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:
        metrics = context.aggregated_metrics or {}
        replicas = set().union(*metrics.values()) if metrics else set()
        names = ("sequences", "cache_use", "first_token_s")
        loads = [{name: metrics.get(name, {}).get(replica, 0.0) for name in names} for replica in replicas]
        if not loads:
            return context.target_num_replicas, {}
        return wanted_replicas(loads, *self._targets), {}
