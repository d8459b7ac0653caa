"""Prometheus' text format: histograms and the page that /metrics answers with."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

__all__ = ["SECONDS", "TOKENS", "Exposition", "Histogram"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
TOKENS = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000)


class Histogram:
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


class Exposition:
    """Lines by metric: all of one stand together, whatever models they are of."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, name: str, kind: str, model: str, value: float, suffix: str = "", label: str = "") -> None:
        of = name if kind == "histogram" else f"{name}{suffix}"  # a counter's type stands under its whole name
        lines = self._lines.setdefault(name, [f"# TYPE vllm:{of} {kind}"])
        escaped = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        labels = ",".join([f'model_name="{escaped}"', *([label] if label else [])])
        lines.append(f"vllm:{name}{suffix}{{{labels}}} {value}")

    def text(self) -> str:
        return "".join(f"{line}\n" for lines in self._lines.values() for line in lines)
