"""What a client has, and the rest that any ingress gives it, are the undisturbed stream, byte for byte.

The engine samples with its real sampler from random logits. No two runs of it are alike but for the tokens: how many
come at once, which choice is first, what was cached.
"""

import random
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.runtime.async_engine import AsyncEngine
from tests.serve_app.random_engine import random_engine
from tests.serve_app.resumption.lines import Answer, Cluster, UnsteadyClient, ask
from tests.serve_app.test_same_tokens import APIS, MODEL, Case, cases

FEATURES: list[dict[str, Any]] = [
    {"stream_options": {"include_usage": True}},
    {"n": 2},
    {"n": 3, "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "stream_interval": 3},
    {"logprobs": True, "top_logprobs": 2, "n": 2, "stop": ["a"]},
    {"presence_penalty": 0.5, "repetition_penalty": 1.3, "return_token_ids": True},
    {"stream_options": {"include_usage": True}, "temperature": 0.0},
]


@settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
@given(
    case=cases(),
    api=st.sampled_from(APIS),
    features=st.sampled_from(FEATURES),
    has_seed=st.booleans(),
    noise=st.integers(0, 999),
)
async def test_prefix_and_rest_are_the_undisturbed_stream(
    case: Case, api: Any, features: dict[str, Any], has_seed: bool, noise: int
) -> None:
    path, body_of, read = api
    body = body_of(case) | {"stream": True} | (features if path == APIS[0][0] else {})
    if not has_seed:
        body.pop("seed")
    rng = random.Random(noise)
    engines = [AsyncEngine(random_engine(MODEL)) for _ in range(2)]
    cluster = Cluster(MODEL)
    first, second, third = (cluster.ingress(UnsteadyClient(engine, noise)) for engine in (*engines, engines[1]))
    key = {"Idempotency-Key": f"key-{noise}"}
    try:
        whole = await ask(first, path, body, key)
        assert whole.status == 200, whole.body
        assert whole.body.startswith(b"retry: 1000\nid: ") and whole.body.count(b"\nid: ") == whole.body.count(b"\n\n")
        cut = rng.randrange(len(whole.body))
        # begun again, where nobody has any of its events
        begun = await ask(second, path, body, key, cut=cut)
        assert whole.body.startswith(begun.body)
        # here it runs on; elsewhere it is generated again
        for ingress in (second, first, third):
            headers = {"Last-Event-ID": begun.last_id} if begun.last_id is not None else key
            rest = await ask(ingress, path, rng.choice([body, None]) if begun.last_id else body, headers)
            assert rest.status == 200, rest.body
            assert begun.events + rest.events == whole.body
        assert (await ask(third, path, body, key)).body == whole.body
        if has_seed and features is FEATURES[0]:  # one choice says what it says without ids
            plain = await ask(first, path, body)
            assert read(_text(plain), True) == read(_text(whole), True)
        over = await ask(third, path, body, {**key, "Last-Event-ID": whole.last_id or ""})
        assert over.status == 204 and not over.body
    finally:
        for engine in engines:
            await engine.close()


PROMPTS = {
    "texts": ["one", "another", "a third"],
    "tokens": [[70, 71], [72]],
}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("features", [{}, {"echo": True, "logprobs": 2, "n": 2}, {"stop": ["a"], "n": 3}], ids=str)
async def test_several_prompts_of_a_completion_are_resumed(kind: str, features: dict[str, Any]) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": PROMPTS[kind], "max_tokens": 24, "stream": True, "stream_options": options, **features}
    path, key, rng = "/v1/completions", {"Idempotency-Key": "k"}, random.Random(1)
    engines = [AsyncEngine(random_engine(MODEL)) for _ in range(2)]
    cluster = Cluster(MODEL)
    first, second = (cluster.ingress(UnsteadyClient(engine, noise)) for noise, engine in enumerate(engines))
    try:
        whole = await ask(first, path, body, key)
        assert whole.status == 200 and whole.body.endswith(b"data: [DONE]\n\n")
        begun = await ask(second, path, body, key, cut=rng.randrange(200, len(whole.body)))
        assert whole.body.startswith(begun.body)
        for ingress in (second, first):
            rest = await ask(ingress, path, None, {"Last-Event-ID": begun.last_id or ""})
            assert begun.events + rest.events == whole.body
    finally:
        for engine in engines:
            await engine.close()


def _text(answer: Answer) -> Any:
    """What readers of answers take, without ids, and without what is of the run."""
    return SimpleNamespace(text=re.sub(r"^(id|retry): .*\n", "", answer.events.decode(), flags=re.MULTILINE))
