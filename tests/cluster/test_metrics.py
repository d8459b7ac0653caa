"""What a replica tells of its requests, read where Ray's metrics would be."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import cluster.metrics
from cluster.metrics import ReplicaMetrics, UsageCounters
from engine.types import EngineOutputs, EngineStatus, RequestOutput
from tests.engine.toy import request

IDLE = EngineStatus(
    model="toy", max_model_len=99, num_running=0, num_waiting=0, num_waiting_tokens=0, num_blocks=4, num_free_blocks=4
)


class Told:
    """Stands for a metric of any kind."""

    def __init__(self, found: dict[str, list[float]], name: str, **options: Any) -> None:
        self._values = found[name.removeprefix("vllm_")]

    def set_default_tags(self, tags: dict[str, str]) -> None: ...

    def note(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        self._values.append(value)

    inc = observe = set = note


class Clock:
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Any:
    found: dict[str, list[float]] = defaultdict(list)

    def kind(name: str, **options: Any) -> Told:
        return Told(found, name, **options)

    clock = Clock()
    monkeypatch.setattr(cluster.metrics, "metrics", SimpleNamespace(Counter=kind, Gauge=kind, Histogram=kind))
    monkeypatch.setattr(cluster.metrics, "time", clock)
    return found, clock


def report(*chunks: RequestOutput, **status: Any) -> EngineOutputs:
    return EngineOutputs((), (), chunks, msgspec.structs.replace(IDLE, **status))


def test_the_parts_of_an_answers_time_add_up(exported: Any) -> None:
    found, clock = exported
    metrics = ReplicaMetrics("toy")
    metrics.submitted("a", request("a", [1] * 20, n=2))
    clock.now_s += 3
    metrics.reported(report(RequestOutput("a", 0, 0, (1,), queued_s=1.0), RequestOutput("a", 1, 0, (1,), queued_s=2.5)))
    clock.now_s += 4
    metrics.reported(report(RequestOutput("a", 0, 1, (1, 2), "stop", queued_s=1.0)))
    clock.now_s += 1
    metrics.reported(report(RequestOutput("a", 1, 1, (1,), "length", queued_s=2.5)))
    assert found["time_to_first_token_seconds"] == [3, 3]
    assert found["request_queue_time_seconds"] == [1, 2.5]
    assert found["request_prefill_time_seconds"] == [2, 0.5]
    assert found["request_decode_time_seconds"] == [4, 5]
    assert found["request_inference_time_seconds"] == [6, 5.5]
    assert found["e2e_request_latency_seconds"] == [7, 8]
    assert found["request_time_per_output_token_seconds"] == [2, 5]
    assert found["request_generation_tokens"] == [3, 2]
    assert found["request_prompt_tokens"] == found["prompt_tokens"] == [20]
    assert sum(found["generation_tokens"]) == 5


def test_states_and_snapshots_are_exported_where_a_model_has_them(exported: Any) -> None:
    found, clock = exported
    metrics = ReplicaMetrics("toy")
    metrics.heartbeat(IDLE)
    assert not found["manta_state_usage_perc"] and not found["manta_state_snapshots"]
    clock.now_s += 1
    metrics.heartbeat(msgspec.structs.replace(IDLE, num_states=8, num_free_states=6, num_snapshots=5))
    assert (found["manta_state_usage_perc"], found["manta_state_snapshots"]) == ([0.25], [5])


def test_preemptions_are_counted_once(exported: Any) -> None:
    found, _ = exported
    metrics = ReplicaMetrics("toy")
    for count in (0, 2, 2, 5):
        metrics.reported(report(num_preemptions=count))
    assert found["num_preemptions"] == [2, 3]


@pytest.mark.parametrize("has_node_cache", [True, False])
def test_tokens_from_the_host_tier_are_counted_apart(exported: Any, has_node_cache: bool) -> None:
    found, _ = exported
    metrics = ReplicaMetrics("toy", has_node_cache)
    metrics.submitted("a", request("a", [1] * 100))
    metrics.reported(report(RequestOutput("a", 0, 0, (1,), "stop", cached_tokens=80, restored_tokens=48)))
    assert found["prefix_cache_queries"] == [100] and found["prefix_cache_hits"] == [80]
    assert found["external_prefix_cache_queries"] == ([100 - 32] if has_node_cache else [])
    assert found["external_prefix_cache_hits"] == ([48] if has_node_cache else [])


def test_usage_is_counted_by_kind_of_tokens(exported: Any) -> None:
    found, _ = exported
    counters = UsageCounters()
    counters.on_usage("alice", 7, 0, 3)
    counters.on_usage("bob", 5, 4, 2)
    counters.on_lost_lines(2)
    assert found == {
        "manta_key_requests": [1.0, 1.0],
        "manta_key_prompt_tokens": [7, 5],
        "manta_key_cached_tokens": [4],
        "manta_key_completion_tokens": [3, 2],
        "manta_usage_ledger_lost_lines": [2],
    }


def test_steps_are_counted_also_where_they_give_no_output(exported: Any) -> None:
    found, clock = exported
    metrics = ReplicaMetrics("toy")
    for steps in (3, 3, 7):  # those of a long prompt; a hung engine's count stays
        clock.now_s += 1
        metrics.heartbeat(msgspec.structs.replace(IDLE, num_running=1, num_steps=steps))
    assert found["manta_engine_steps"] == [3, 4]
    assert found["num_requests_running"] == [1, 1, 1]
