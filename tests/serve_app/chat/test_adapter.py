"""A ChatRequest becomes a Conversation that knows no API."""

import pytest

from configs.schema import ApiConfig
from engine.errors import RequestError
from engine.types import BeamParams, RepetitionLimit
from serve_app.api.requests import ChatRequest
from serve_app.api.validation import validate
from serve_app.chat.adapter import conversation_of
from serve_app.request.conversation import Message, ReasoningOptions, Tool, ToolCall, ToolChoice

USER = {"role": "user", "content": "hi"}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}


def conversation(**fields):
    return conversation_of(validate(ChatRequest, {"messages": [USER], **fields}), ApiConfig())


def test_messages_have_one_text_and_calls_have_objects():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "tool_calls": [call], "reasoning_content": "why"},
        {"role": "tool", "content": "t", "tool_call_id": "c"},
    ]
    assert conversation(messages=messages).messages == (
        Message(role="user", content="a\nb"),
        Message(role="assistant", content="", reasoning="why", tool_calls=(ToolCall("c", "f", {"a": 1}),)),
        Message(role="tool", content="t", tool_call_id="c"),
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("named", ("f",))),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
            ToolChoice("auto", ("f",)),
        ),
    ],
)
def test_tool_choice_is_a_mode_and_names(choice, expected):
    found = conversation(tools=[{"type": "function", "function": FUNCTION}], tool_choice=choice)
    assert found.tool_choice == expected
    assert found.tools == (Tool("f", {"type": "object"}, False, {"type": "function", "function": FUNCTION}),)


def test_functions_are_tools_of_which_one_is_called_at_a_time():
    found = conversation(functions=[FUNCTION], function_call={"name": "f"})
    assert found.tool_choice == ToolChoice("named", ("f",)) and not found.parallel_tool_calls
    assert found.tools == conversation(tools=[{"type": "function", "function": FUNCTION}]).tools
    with pytest.raises(RequestError, match="functions: not together with tools"):
        conversation(functions=[FUNCTION], tools=[{"type": "function", "function": FUNCTION}])


def test_options_are_those_of_the_wire():
    found = conversation(
        temperature=0.5,
        stop="x",
        max_completion_tokens=7,
        n=2,
        use_beam_search=True,
        length_penalty=0.5,
        repetition_detection={"max_pattern_size": 3},
        thinking_token_budget=5,
        include_reasoning=False,
        logprobs=True,
        top_logprobs=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    options = found.options
    assert options.sampling.temperature == 0.5 and options.stops == ("x",)
    assert (options.lengths.max_tokens, options.lengths.field) == (7, "max_completion_tokens")
    assert options.sampling.beam == BeamParams(2, 0.5, False) and options.sampling.repetition == RepetitionLimit(
        1, 3, 2
    )
    assert options.lengths.reasoning_tokens == 5 and found.reasoning == ReasoningOptions(is_sent=False)
    assert options.logprobs.num_top == 2
    assert options.delivery.stream and options.delivery.include_usage and not options.delivery.continuous_usage
