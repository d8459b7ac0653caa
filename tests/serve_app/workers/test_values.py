import os
import pickle

import pytest

from configs.schema import ApiConfig
from serve_app.api.requests import ChatRequest
from serve_app.chat.adapter import prepare_chat
from serve_app.preparation.generate_request import new_context
from serve_app.workers.values import dumps, loads
from tests.serve_app.toy import toy_model


class Call:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def test_a_prepared_request_comes_back_as_it_was():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool], "stop": ["a"], "logit_bias": {"5": 1}}
    value = prepare_chat(ChatRequest.model_validate(body), toy_model(), ApiConfig(), new_context("x", 512))
    assert loads(dumps(value)) == value


def test_a_wire_model_stays_where_it_was_checked():
    with pytest.raises(pickle.UnpicklingError, match="is no class of a value"):
        loads(dumps(ChatRequest.model_validate({"messages": []})))


@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "true"),
        Call(eval, "1"),
        Call(getattr, ApiConfig, "__init__"),
        Call(prepare_chat, 1),
        Call(pickle.loads, b""),
    ],
)
def test_nothing_that_a_worker_says_is_called(call):
    with pytest.raises(pickle.UnpicklingError, match="is no class of a value"):
        loads(dumps([call]))
