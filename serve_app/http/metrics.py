"""What one ingress has answered, in numbers, as Prometheus reads them: under vLLM's names.

Ray exports the engines' own numbers from every node; this is for who scrapes the API's address, as one does with vLLM.
A delta costs two observations, and an answer a handful.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from engine.types import EngineClient, EngineStatus
from serve_app.generation.choice import Delta
from serve_app.generation.reply import Usage
from serve_app.http.answer import Run

__all__ = ["Metrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
TOKENS = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000)


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # [i]: of values up to bounds[i] and above bounds[i - 1]
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """(suffix, label, value)"""
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield "_bucket", f'le="{bound}"', total
        yield "_sum", "", self._sum
        yield "_count", "", total


class _Book:
    """Of one model."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()  # choices by finish reason
        self.first_token = _Histogram(SECONDS)
        self.between_tokens = _Histogram(SECONDS)
        self.per_token = _Histogram(SECONDS)  # the mean of a choice, after its first token
        self.queue = _Histogram(SECONDS)  # of a choice, as are the next three
        self.prefill = _Histogram(SECONDS)
        self.decode = _Histogram(SECONDS)
        self.inference = _Histogram(SECONDS)
        self.whole_answer = _Histogram(SECONDS)
        self.prompt_lens = _Histogram(TOKENS)
        self.answer_lens = _Histogram(TOKENS)

    def histograms(self) -> dict[str, _Histogram]:
        return {
            "time_to_first_token_seconds": self.first_token,
            "inter_token_latency_seconds": self.between_tokens,
            "request_time_per_output_token_seconds": self.per_token,
            "request_queue_time_seconds": self.queue,
            "request_prefill_time_seconds": self.prefill,
            "request_decode_time_seconds": self.decode,
            "request_inference_time_seconds": self.inference,
            "e2e_request_latency_seconds": self.whole_answer,
            "request_prompt_tokens": self.prompt_lens,
            "request_generation_tokens": self.answer_lens,
        }


class Metrics:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._books: dict[str, _Book] = {}

    def followed(self, run: Run, model: str) -> Run:
        """The same run, whose deltas are counted as they pass."""
        return _Followed(run, self._books.setdefault(model, _Book()), self._clock)

    def text(self, statuses: Iterable[EngineStatus]) -> str:
        """Prometheus' text format; `statuses` are the engines' of now."""
        page = _Page()
        for status in statuses:
            page.add("num_requests_running", "gauge", status.model, status.num_running)
            page.add("num_requests_waiting", "gauge", status.model, status.num_waiting)
            in_use = 1.0 - status.num_free_blocks / status.num_blocks if status.num_blocks else 0.0
            page.add("kv_cache_usage_perc", "gauge", status.model, in_use)
            cache = f'block_size="{status.block_size}",num_gpu_blocks="{status.num_blocks}"'
            page.add("cache_config_info", "gauge", status.model, 1, label=cache)
        for model, book in self._books.items():
            for name, count in book.counts.items():
                page.add(name, "counter", model, count, "_total")
            for reason, count in book.endings.items():
                page.add("request_success", "counter", model, count, "_total", f'finished_reason="{reason}"')
            for name, histogram in book.histograms().items():
                for suffix, label, value in histogram.samples():
                    page.add(name, "histogram", model, value, suffix, label)
        return page.text()


class _Followed:
    """A run of which a book is kept."""

    def __init__(self, run: Run, book: _Book, clock: Callable[[], float]) -> None:
        self._run, self._book, self._clock = run, book, clock
        self._open: dict[int, _Course] = {}  # by choice
        self._ended: set[int] = set()

    async def deltas(self, client: EngineClient) -> AsyncIterator[Delta]:
        began_s = self._clock()
        try:
            async with aclosing(cast("AsyncGenerator[Delta]", self._run.deltas(client))) as deltas:
                async for delta in deltas:
                    self._note(delta, began_s)
                    yield delta
        finally:
            if self._open or self._ended:  # else it was refused
                self._end(self._clock() - began_s)

    def usage(self) -> Usage:
        return self._run.usage()

    def usage_of(self, index: int) -> Usage:
        return self._run.usage_of(index)

    def _note(self, delta: Delta, began_s: float) -> None:
        now_s, index, book = self._clock(), delta.index, self._book
        course = self._open.get(index)
        if course is None:
            waited_s = now_s - began_s
            queued_s = min(delta.queued_s, waited_s)
            course = self._open[index] = _Course(began_s + queued_s, now_s, now_s)
            book.first_token.observe(waited_s)
            book.queue.observe(queued_s)
            book.prefill.observe(waited_s - queued_s)
        else:
            book.between_tokens.observe(now_s - course.last_s)
            course.last_s = now_s
        if delta.finish_reason is not None:
            del self._open[index]
            self._ended.add(index)
            book.decode.observe(now_s - course.first_s)
            book.inference.observe(now_s - course.started_s)
            num_tokens = self._run.usage_of(index).completion_tokens
            if num_tokens > 1:
                book.per_token.observe((now_s - course.first_s) / (num_tokens - 1))
            book.endings["stop" if delta.finish_reason == "tool_calls" else delta.finish_reason] += 1

    def _end(self, took_s: float) -> None:
        book, usage = self._book, self._run.usage()
        book.counts["prompt_tokens"] += usage.prompt_tokens
        book.counts["generation_tokens"] += usage.completion_tokens
        book.counts["prefix_cache_queries"] += usage.prompt_tokens
        book.counts["prefix_cache_hits"] += usage.cached_tokens
        book.endings["abort"] += len(self._open)
        book.prompt_lens.observe(usage.prompt_tokens)
        book.whole_answer.observe(took_s)
        for index in (*self._ended, *self._open):
            book.answer_lens.observe(self._run.usage_of(index).completion_tokens)


@dataclass
class _Course:
    """When of a choice something came."""

    started_s: float  # its first step
    first_s: float  # token
    last_s: float


class _Page:
    """Lines by metric: all of one stand together, whatever models they are of."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, name: str, kind: str, model: str, value: float, suffix: str = "", label: str = "") -> None:
        of = name if kind == "histogram" else f"{name}{suffix}"  # a counter's type is told under its whole name
        lines = self._lines.setdefault(name, [f"# TYPE vllm:{of} {kind}"])
        told = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        labels = ",".join([f'model_name="{told}"', *([label] if label else [])])
        lines.append(f"vllm:{name}{suffix}{{{labels}}} {value}")

    def text(self) -> str:
        return "".join(f"{line}\n" for lines in self._lines.values() for line in lines)
