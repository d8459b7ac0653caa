"""Prometheus metrics of a replica, through Ray, under vLLM's names, so that dashboards made for it light up.

Ray exports each name with the prefix `ray_`, counters with the suffix `_total`. Everything is derived from the engine's
reports; a request costs a handful of observations, a token none.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.serve import metrics

from configs.metrics import CATALOGUE, MANTA
from engine.runtime.fleet_status import MigrationReason
from engine.types import EngineOutputs, EngineStatus, GenerateRequest, RequestOutput

__all__ = [
    "ReplicaMetrics",
    "UsageCounters",
    "key_rejection_counter",
    "migration_counter",
    "mixed_kernels_counter",
    "resumed_streams_counter",
]


def migration_counter() -> Callable[[str, MigrationReason], None]:
    """Counts migrated requests, by model, cause ("planned", which is a drain, or "lost") and reason."""
    counter = _manta_counter("request_migrations")

    def count(model: str, reason: MigrationReason) -> None:
        cause = "planned" if reason == "drained" else "lost"
        counter.inc(tags={"model_name": model, "cause": cause, "reason": reason})

    return count


def mixed_kernels_counter() -> Callable[[str], None]:
    """Counts streams that went on on a replica with other kernels, by model."""
    counter = _manta_counter("mixed_kernel_streams")
    return lambda model: counter.inc(tags={"model_name": model})


def resumed_streams_counter() -> Callable[[str], None]:
    """Counts streams that a client has come back to, by the source of their events."""
    counter = _manta_counter("resumed_streams")
    return lambda source: counter.inc(tags={"source": source})


class UsageCounters:
    """Counts the usage of API keys, by their names, and lines that the usage ledger has lost."""

    def __init__(self) -> None:
        self._requests = _manta_counter("key_requests")
        self._tokens = {kind: _manta_counter(f"key_{kind}_tokens") for kind in ("prompt", "cached", "completion")}
        self._lost = _manta_counter("usage_ledger_lost_lines")

    def on_usage(self, key: str, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> None:
        tags = {"key": key}
        self._requests.inc(tags=tags)
        counts = {"prompt": prompt_tokens, "cached": cached_tokens, "completion": completion_tokens}
        for kind, count in counts.items():
            if count:
                self._tokens[kind].inc(count, tags=tags)

    def on_lost_lines(self, num_lines: int) -> None:
        self._lost.inc(num_lines)


def key_rejection_counter() -> Callable[[str, str], None]:
    """Counts requests that were refused for the limits of an API key, by the key's name and the limit."""
    counter = _manta_counter("key_rejections")
    return lambda key, limit: counter.inc(tags={"key": key, "limit": limit})


def _manta_counter(name: str) -> metrics.Counter:
    metric = MANTA[name]
    tags: Any = metric.labels  # Ray means any number
    return metrics.Counter(f"manta_{name}", description=metric.help, tag_keys=tags)


def _manta_gauge(name: str, model: str) -> metrics.Gauge:
    metric = MANTA[name]
    tags: Any = metric.labels  # Ray means any number
    gauge = metrics.Gauge(f"manta_{name}", description=metric.help, tag_keys=tags)
    gauge.set_default_tags({"model_name": model})
    return gauge


class ReplicaMetrics:
    """Follows the requests of one replica from their acceptance to their end."""

    def __init__(self, model: str, has_node_cache: bool = False) -> None:
        """has_node_cache   the replica has a host tier (KV offload)"""
        self._has_node_cache = has_node_cache

        def made(name: str) -> Any:
            metric = CATALOGUE[name]
            more: dict[str, Any] = {"boundaries": list(metric.buckets)} if metric.kind == "histogram" else {}
            tags = ("model_name", *metric.labels)
            one = getattr(metrics, metric.kind.capitalize())(
                f"vllm_{name}", description=metric.help, tag_keys=tags, **more
            )
            one.set_default_tags({"model_name": model})
            return one

        self._running = made("num_requests_running")
        self._waiting = made("num_requests_waiting")
        self._cache_use = made("kv_cache_usage_perc")
        self._queries = made("prefix_cache_queries")
        self._hits = made("prefix_cache_hits")
        self._node_queries = made("external_prefix_cache_queries")
        self._node_hits = made("external_prefix_cache_hits")
        self._prompt_tokens = made("prompt_tokens")
        self._output_tokens = made("generation_tokens")
        self._preemptions = made("num_preemptions")
        self._steps = _manta_counter("engine_steps")
        self._steps.set_default_tags({"model_name": model})
        self._state_use = _manta_gauge("state_usage_perc", model)
        self._snapshots = _manta_gauge("state_snapshots", model)
        self._success = made("request_success")
        self._first_token = made("time_to_first_token_seconds")
        self._per_token = made("request_time_per_output_token_seconds")
        self._queue = made("request_queue_time_seconds")
        self._prefill = made("request_prefill_time_seconds")
        self._decode = made("request_decode_time_seconds")
        self._inference = made("request_inference_time_seconds")
        self._end_to_end = made("e2e_request_latency_seconds")
        self._prompt_lens = made("request_prompt_tokens")
        self._output_lens = made("request_generation_tokens")
        self._arrived: dict[str, tuple[float, int, int]] = {}  # request id -> arrival, prompt tokens, open choices
        self._answers: dict[tuple[str, int], _Answer] = {}  # by choice
        self._unwritten_tokens = 0
        self._written_preemptions = self._written_steps = 0
        self._written_s = 0.0

    def submitted(self, request_id: str, request: GenerateRequest) -> None:
        choices_left = sum(tokens is not None for tokens in request.resume) if request.resume else request.n
        self._arrived[request_id] = (time.monotonic(), len(request.prompt), choices_left)

    def reported(self, report: EngineOutputs) -> None:
        now_s = time.monotonic()
        for rejection in report.rejected:
            self._arrived.pop(rejection.request_id, None)
        for chunk in report.chunks:
            arrived = self._arrived.get(chunk.request_id)
            if arrived is None:
                continue
            began_s, prompt_len, choices_left = arrived
            choice = chunk.request_id, chunk.index
            answer = self._answers.get(choice)
            if answer is None:
                answer = self._answers[choice] = _Answer(began_s, min(chunk.queued_s, now_s - began_s), now_s)
                self._begin(chunk, prompt_len, answer)
            answer.num_tokens += len(chunk.tokens)
            self._unwritten_tokens += len(chunk.tokens)
            if chunk.finish_reason is not None:
                self._finish(chunk.finish_reason, answer, now_s)
                del self._answers[choice]
                if choices_left == 1:
                    del self._arrived[chunk.request_id]
                else:
                    self._arrived[chunk.request_id] = (began_s, prompt_len, choices_left - 1)
        if now_s - self._written_s > 0.5 or report.status.num_running == 0:
            self._write(report.status)
            self._written_s = now_s

    def heartbeat(self, status: EngineStatus) -> None:
        """Writes what steps without outputs have changed. The status of a hung engine stays, as do its metrics."""
        now_s = time.monotonic()
        if now_s - self._written_s > 0.5:
            self._write(status)
            self._written_s = now_s

    def _begin(self, chunk: RequestOutput, prompt_len: int, answer: "_Answer") -> None:
        waited_s = answer.first_s - answer.began_s
        self._first_token.observe(waited_s)
        self._queue.observe(answer.queued_s)
        self._prefill.observe(waited_s - answer.queued_s)
        self._queries.inc(max(1, prompt_len))
        if chunk.cached_tokens:
            self._hits.inc(chunk.cached_tokens)
        if self._has_node_cache:
            self._node_queries.inc(max(1, prompt_len - chunk.cached_tokens + chunk.restored_tokens))
            if chunk.restored_tokens:
                self._node_hits.inc(chunk.restored_tokens)
        if chunk.index == 0:
            self._prompt_tokens.inc(max(1, prompt_len))
            self._prompt_lens.observe(prompt_len)

    def _finish(self, reason: str, answer: "_Answer", now_s: float) -> None:
        self._success.inc(tags={"finished_reason": reason})
        self._end_to_end.observe(now_s - answer.began_s)
        self._inference.observe(now_s - answer.began_s - answer.queued_s)
        self._decode.observe(now_s - answer.first_s)
        if answer.num_tokens > 1:
            self._per_token.observe((now_s - answer.first_s) / (answer.num_tokens - 1))
        if answer.num_tokens:
            self._output_lens.observe(answer.num_tokens)

    def _write(self, status: EngineStatus) -> None:
        self._running.set(status.num_running)
        self._waiting.set(status.num_waiting)
        self._cache_use.set(1.0 - status.num_free_blocks / status.num_blocks)
        if status.num_states:
            self._state_use.set(1.0 - status.num_free_states / status.num_states)
            self._snapshots.set(status.num_snapshots)
        if self._unwritten_tokens:
            self._output_tokens.inc(self._unwritten_tokens)
            self._unwritten_tokens = 0
        if status.num_preemptions > self._written_preemptions:
            self._preemptions.inc(status.num_preemptions - self._written_preemptions)
            self._written_preemptions = status.num_preemptions
        if status.num_steps > self._written_steps:
            self._steps.inc(status.num_steps - self._written_steps)
            self._written_steps = status.num_steps


@dataclass
class _Answer:
    """One choice, from its first chunk on."""

    began_s: float  # when its request arrived
    queued_s: float
    first_s: float  # when its first token came
    num_tokens: int = 0
