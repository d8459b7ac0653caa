"""What one ingress has answered, in numbers, as Prometheus reads them: under vLLM's names.

Ray exports the engines' own numbers from every node; this is for who scrapes the API's address, as one does with vLLM.
A delta costs two observations, and an answer a handful.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
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
        self.whole_answer = _Histogram(SECONDS)
        self.prompt_lens = _Histogram(TOKENS)
        self.answer_lens = _Histogram(TOKENS)


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
            in_use = 1.0 - status.num_idle_blocks / status.num_blocks if status.num_blocks else 0.0
            page.add("kv_cache_usage_perc", "gauge", status.model, in_use)
        for model, book in self._books.items():
            for name, count in book.counts.items():
                page.add(name, "counter", model, count, "_total")
            for reason, count in book.endings.items():
                page.add("request_success", "counter", model, count, "_total", f'finished_reason="{reason}"')
            for name, histogram in (
                ("time_to_first_token_seconds", book.first_token),
                ("inter_token_latency_seconds", book.between_tokens),
                ("e2e_request_latency_seconds", book.whole_answer),
                ("request_prompt_tokens", book.prompt_lens),
                ("request_generation_tokens", book.answer_lens),
            ):
                for suffix, label, value in histogram.samples():
                    page.add(name, "histogram", model, value, suffix, label)
        return page.text()


class _Followed:
    """A run of which a book is kept."""

    def __init__(self, run: Run, book: _Book, clock: Callable[[], float]) -> None:
        self._run, self._book, self._clock = run, book, clock
        self._open: dict[int, float] = {}  # choice -> when its last tokens came
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
        if index in self._open:
            book.between_tokens.observe(now_s - self._open[index])
        else:
            book.first_token.observe(now_s - began_s)
        self._open[index] = now_s
        if delta.finish_reason is not None:
            del self._open[index]
            self._ended.add(index)
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
