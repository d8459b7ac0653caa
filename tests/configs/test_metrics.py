"""The metric catalogue feeds the ingress's /metrics and Ray's metrics: the same names, kinds and buckets."""

import re
from pathlib import Path

from configs.metrics import CATALOGUE

ROOT = Path(__file__).parent.parent.parent


def test_both_sides_take_their_metrics_from_the_catalogue() -> None:
    for path in ("cluster/metrics.py", "serve_app/metrics/request_metrics.py"):
        named = set(re.findall(r'(?:made|_histogram|page\.add)\(\s*"(\w+)"', (ROOT / path).read_text()))
        assert len(named) > 10 and named <= CATALOGUE.keys()


def test_histograms_have_rising_buckets_and_nothing_else_has() -> None:
    for name, metric in CATALOGUE.items():
        assert bool(metric.buckets) == (metric.kind == "histogram"), name
        assert list(metric.buckets) == sorted(set(metric.buckets)) and metric.help.endswith("."), name
