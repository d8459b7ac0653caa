"""Prometheus' text format: histograms and the page at /metrics."""

from bisect import bisect_left
from collections.abc import Iterator

from configs.metrics import CATALOGUE, MANTA

__all__ = ["Exposition", "Histogram", "label_value"]


class Histogram:
    """A metric of configs/metrics.py."""

    def __init__(self, name: str) -> None:
        self._bounds = bounds = CATALOGUE[name].buckets
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
    """Lines grouped by metric, for all models."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, name: str, model: str, value: float, suffix: str = "", label: str = "") -> None:
        kind = CATALOGUE[name].kind
        of = name if kind == "histogram" else f"{name}{suffix}"  # a counter's TYPE line has its whole name
        lines = self._lines.setdefault(name, [f"# TYPE vllm:{of} {kind}"])
        labels = ",".join([f'model_name="{label_value(model)}"', *([label] if label else [])])
        lines.append(f"vllm:{name}{suffix}{{{labels}}} {value}")

    def add_own(self, name: str, value: float, **labels: str) -> None:
        """A counter of ours, which vLLM does not have."""
        lines = self._lines.setdefault(f"manta_{name}", [f"# TYPE manta_{name}_total {MANTA[name].kind}"])
        shown = ",".join(f'{label}="{label_value(labels[label])}"' for label in MANTA[name].labels)
        lines.append(f"manta_{name}_total{{{shown}}} {value}")

    def text(self) -> str:
        return "".join(f"{line}\n" for lines in self._lines.values() for line in lines)


def label_value(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
