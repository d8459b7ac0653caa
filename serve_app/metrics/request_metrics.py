"""Request metrics of one ingress, under vLLM's names: time to first token, inter-token latency, tokens, finish reasons.

For scraping the API's own address, as with vLLM; Ray exports the engines' metrics from every node.
A delta costs two observations, and an answer a handful.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from engine.types import EngineStatus
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import StreamObserver, UsageSource
from serve_app.metrics.key_usage import KeyUsage
from serve_app.metrics.prometheus import Exposition, Histogram

__all__ = ["Metrics"]


class _ModelMetrics:
    """The metrics of one model."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()  # choices by finish reason
        self.histograms: dict[str, Histogram] = {}  # by their names
        self.first_token = self._histogram("time_to_first_token_seconds")
        self.between_tokens = self._histogram("inter_token_latency_seconds")
        # the mean over a choice's tokens after its first one
        self.per_token = self._histogram("request_time_per_output_token_seconds")
        self.queue = self._histogram("request_queue_time_seconds")  # of a choice, as are the next three
        self.prefill = self._histogram("request_prefill_time_seconds")
        self.decode = self._histogram("request_decode_time_seconds")
        self.inference = self._histogram("request_inference_time_seconds")
        self.whole_answer = self._histogram("e2e_request_latency_seconds")
        self.prompt_lens = self._histogram("request_prompt_tokens")
        self.answer_lens = self._histogram("request_generation_tokens")

    def _histogram(self, name: str) -> Histogram:
        return self.histograms.setdefault(name, Histogram(name))


class Metrics:
    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        key_usage: KeyUsage | None = None,
        export_resumed: Callable[[Literal["kept", "generated"]], None] | None = None,
    ) -> None:
        """`export_resumed` counts resumed streams elsewhere too."""
        self._clock, self._key_usage, self._export_resumed = clock, key_usage, export_resumed
        self._resumed: Counter[str] = Counter()  # streams by the source of their events
        self._models: dict[str, _ModelMetrics] = {}

    def observer(self, model: str) -> StreamObserver:
        """The observer of one answer of the model."""
        return _MetricsObserver(self._models.setdefault(model, _ModelMetrics()), self._clock)

    def on_resumed(self, source: Literal["kept", "generated"]) -> None:
        """A client has come back to its stream."""
        self._resumed[source] += 1
        if self._export_resumed is not None:
            self._export_resumed(source)

    def text(self, statuses: Iterable[EngineStatus], rejections: Mapping[tuple[str, str], int] | None = None) -> str:
        """Prometheus' text format.

        statuses     the engines' present ones
        rejections   requests that were refused, by API key's name and limit
        """
        page = Exposition()
        for (key, limit), count in (rejections or {}).items():
            page.add_own("key_rejections", count, key=key, limit=limit)
        for source, resumed in self._resumed.items():
            page.add_own("resumed_streams", resumed, source=source)
        for status in statuses:
            page.add("num_requests_running", status.model, status.num_running)
            page.add("num_requests_waiting", status.model, status.num_waiting)
            in_use = 1.0 - status.num_free_blocks / status.num_blocks if status.num_blocks else 0.0
            page.add("kv_cache_usage_perc", status.model, in_use)
            cache = f'block_size="{status.block_size}",num_gpu_blocks="{status.num_blocks}"'
            page.add("cache_config_info", status.model, 1, label=cache)
        for model, metrics in self._models.items():
            for name, count in metrics.counts.items():
                page.add(name, model, count, "_total")
            for reason, count in metrics.endings.items():
                page.add("request_success", model, count, "_total", f'finished_reason="{reason}"')
            for name, histogram in metrics.histograms.items():
                for suffix, label, value in histogram.samples():
                    page.add(name, model, value, suffix, label)
        usage = self._key_usage.lines() if self._key_usage is not None else ()
        return page.text() + "".join(f"{line}\n" for line in usage)


@dataclass
class _ChoiceTimes:
    """The times of a choice, in seconds."""

    started_s: float  # its first step
    first_s: float  # token
    last_s: float


class _MetricsObserver:
    """A StreamObserver."""

    def __init__(self, metrics: _ModelMetrics, clock: Callable[[], float]) -> None:
        self._metrics, self._clock = metrics, clock
        self._open: dict[int, _ChoiceTimes] = {}  # by choice
        self._ended: set[int] = set()

    def on_start(self, output: UsageSource) -> None:
        self._output, self._began_s = output, self._clock()

    def on_delta(self, delta: ChoiceDelta) -> None:
        now_s, index, metrics = self._clock(), delta.index, self._metrics
        times = self._open.get(index)
        if times is None:
            waited_s = now_s - self._began_s
            queued_s = min(delta.queued_s, waited_s)
            times = self._open[index] = _ChoiceTimes(self._began_s + queued_s, now_s, now_s)
            metrics.first_token.observe(waited_s)
            metrics.queue.observe(queued_s)
            metrics.prefill.observe(waited_s - queued_s)
        else:
            metrics.between_tokens.observe(now_s - times.last_s)
            times.last_s = now_s
        if (reason := delta.finish_reason) is not None:
            del self._open[index]
            self._ended.add(index)
            self._on_choice_end(index, times, now_s)
            metrics.endings["stop" if reason == "tool_calls" else reason] += 1

    def on_end(self, *, is_complete: bool, error: Exception | None) -> None:
        if not self._open and not self._ended:  # refused
            return
        metrics, usage = self._metrics, self._output.usage()
        metrics.counts["prompt_tokens"] += usage.prompt_tokens
        metrics.counts["generation_tokens"] += usage.completion_tokens
        metrics.counts["prefix_cache_queries"] += usage.prompt_tokens
        metrics.counts["prefix_cache_hits"] += usage.cached_tokens
        metrics.endings["abort"] += len(self._open)
        metrics.prompt_lens.observe(usage.prompt_tokens)
        metrics.whole_answer.observe(self._clock() - self._began_s)
        for index in (*self._ended, *self._open):
            metrics.answer_lens.observe(self._output.usage_of(index).completion_tokens)

    def _on_choice_end(self, index: int, times: _ChoiceTimes, now_s: float) -> None:
        metrics = self._metrics
        metrics.decode.observe(now_s - times.first_s)
        metrics.inference.observe(now_s - times.started_s)
        num_tokens = self._output.usage_of(index).completion_tokens
        if num_tokens > 1:
            metrics.per_token.observe((now_s - times.first_s) / (num_tokens - 1))
