"""Whatever a client sends, it is never the server's fault."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.api.requests import ChatBatchRequest, ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tests.serve_app.scripted import ScriptedClient, build_app, config, says, talking_to
from tests.serve_app.toy import toy_model

ROUTES = {
    "/v1/chat/completions": ChatRequest,
    "/v1/chat/completions/batch": ChatBatchRequest,
    "/v1/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
USER = {"role": "user", "content": "hi"}
GOOD = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/chat/completions/batch": {"messages": [[USER]]},
    "/v1/completions": {"prompt": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [5]},
}
HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 10**18, 10**30, 0.5, -0.0, 1e300, 5e-324]),
    st.sampled_from(
        ["", "x", "\x00", "\ufeff", "{{ 7 }}", "<|im_end|>", "\u2028", "👩‍👩", "a" * 5000, "auto", "required"]
    ),
    st.text(max_size=5),
)
VALUES = st.recursive(
    HOSTILE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "function", "name", "text", "role", "content", "id", "tool_calls", "arguments", "1", ""]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def app():
    # cut by length: this engine follows no grammar, and only finished answers are checked
    return build_app(ScriptedClient(says("ok", finish="length")), config(), {"toy": toy_model()})


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
async def test_no_field_makes_a_5xx(app, route, data):
    names = st.sampled_from(sorted(ROUTES[route].model_fields))
    fields = {**GOOD[route], **data.draw(st.dictionaries(names, VALUES, max_size=3))}
    async with talking_to(app) as http:
        answer = await http.post(route, json=fields)
    assert answer.status_code < 500, (fields, answer.text)
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200))
async def test_no_body_makes_a_5xx(app, body):
    async with talking_to(app) as http:
        answer = await http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500


@settings(max_examples=100, deadline=None)
@given(message=st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "name", "reasoning"]), VALUES))
async def test_no_message_makes_a_5xx(app, message):
    async with talking_to(app) as http:
        answer = await http.post("/v1/chat/completions", json={"messages": [{"role": "assistant", **message}]})
    assert answer.status_code < 500, (message, answer.text)
