"""What a client is told about a body that does not fit."""

import pytest

from engine.errors import RequestError
from serve_app.api.requests import ChatRequest, CompletionRequest
from serve_app.api.validation import validate


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids: should be non-empty, with at least 1 item"),
        ({"messages": ["hi"]}, "messages.0: must be an object, not 'hi'"),
        ({"stop": ""}, "stop: should be non-empty, with at least 1 character"),
        ({"stop": 5}, "stop: must be a string or an array, not 5"),
        ({"stop": [None]}, "stop.0: must be a string, not null"),
        ({"n": 1.5}, "n: must be an integer, not 1.5"),
        ({"temperature": True}, "temperature: must be a number, not true"),
        ({"tool_choice": "any"}, "tool_choice: must be 'none', 'auto' or 'required', not 'any'"),
        (
            {"tool_choice": {"type": "any"}},
            "tool_choice: must be 'none', 'auto' or 'required' or an object whose type is one of 'function', "
            "'allowed_tools', not {'type': 'any'}",
        ),
        (
            {"tool_choice": {"name": "f"}},
            "tool_choice: must be 'none', 'auto' or 'required' or an object with a type, not {'name': 'f'}",
        ),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function: field required"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name: field required"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools: field required"),
    ],
)
def test_a_fault_is_told_in_the_words_of_json_and_of_what_was_meant(fields, message):
    with pytest.raises(RequestError) as caught:
        validate(ChatRequest, {"messages": [{"role": "user", "content": "x"}], **fields})
    assert str(caught.value) == message
    assert caught.value.param == message.partition(":")[0]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (["a", ""], "prompt.1: should be non-empty, with at least 1 character"),
        ([[1], []], "prompt.1: should be non-empty, with at least 1 item"),
    ],
)
def test_of_several_prompts_the_wrong_one_is_told(prompt, message):
    with pytest.raises(RequestError) as caught:
        validate(CompletionRequest, {"prompt": prompt})
    assert str(caught.value) == message


@pytest.mark.parametrize("prompt", ["", [], [""], [[]]])
def test_an_empty_prompt_is_told_as_one(prompt):
    with pytest.raises(RequestError, match="non-empty, with at least 1"):
        validate(CompletionRequest, {"prompt": prompt})
