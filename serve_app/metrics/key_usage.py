"""Usage totals of each API key, and lost lines of the usage ledger, for Prometheus (api.usage_ledger.metrics)."""

import threading
from collections.abc import Iterator
from typing import Protocol

from serve_app.generation.usage import Usage
from serve_app.logs.request_record import RequestFacts
from serve_app.metrics.prometheus import label_value

__all__ = ["ExportUsage", "KeyUsage"]

COUNTERS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


class ExportUsage(Protocol):
    """Counts elsewhere too; in any thread."""

    def on_usage(self, key: str, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> None: ...
    def on_lost_lines(self, num_lines: int) -> None: ...


class KeyUsage:
    """A RequestSink. Its labels are the names of configured keys, so their number is bounded."""

    def __init__(self, export: ExportUsage | None, *, has_keys: bool) -> None:
        """`has_keys`: count for each key; False: lost lines alone."""
        self._export, self._has_keys = export, has_keys
        self._totals: dict[str, list[int]] = {}  # by key, in the order of COUNTERS
        self._num_lost, self._lock = 0, threading.Lock()

    def on_request(self, facts: RequestFacts) -> None:
        if not self._has_keys or not facts.api or not facts.usage.prompt_tokens:
            return
        usage = facts.usage
        counts = (1, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        totals = self._totals.get(facts.key, [0] * len(COUNTERS))
        self._totals[facts.key] = [total + count for total, count in zip(totals, counts, strict=True)]
        self._export_usage(facts.key, usage)

    def on_lost_lines(self, num_lines: int) -> None:
        """In any thread."""
        with self._lock:
            self._num_lost += num_lines
        if self._export is not None:
            self._export.on_lost_lines(num_lines)

    def lines(self) -> Iterator[str]:
        """In Prometheus' text format."""
        for index, counter in enumerate(COUNTERS if self._has_keys else ()):
            name = f"manta_key_{counter}_total"
            yield f"# TYPE {name} counter"
            for key, totals in self._totals.items():
                yield f'{name}{{key="{label_value(key)}"}} {totals[index]}'
        yield "# TYPE manta_usage_ledger_lost_lines_total counter"
        yield f"manta_usage_ledger_lost_lines_total {self._num_lost}"

    def _export_usage(self, key: str, usage: Usage) -> None:
        if self._export is not None:
            self._export.on_usage(key, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
