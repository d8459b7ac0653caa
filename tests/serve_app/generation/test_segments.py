"""Reasoning, texts and calls of an answer, in their order."""

from serve_app.generation.segments import Segments
from serve_app.text.message_delta import MessageDelta, ToolCallDelta


def changes(segments, *deltas):
    found = [change for delta in deltas for change in segments.push(delta)]
    return [(one.action, one.segment.kind, one.segment.index, one.text) for one in [*found, *segments.end()]]


def test_one_segment_is_open_at_a_time():
    call = (ToolCallDelta(0, "", "c", "f"), ToolCallDelta(0, "{}"))
    told = changes(Segments(), MessageDelta(reasoning="r"), MessageDelta(content="a"), MessageDelta(tool_calls=call))
    assert told == [
        ("open", "reasoning", 0, ""),
        ("grow", "reasoning", 0, "r"),
        ("close", "reasoning", 0, ""),
        ("open", "text", 1, ""),
        ("grow", "text", 1, "a"),
        ("close", "text", 1, ""),
        ("open", "call", 2, ""),
        ("grow", "call", 2, "{}"),
        ("close", "call", 2, ""),
    ]


def test_a_delta_of_several_pieces_keeps_their_order():
    first = MessageDelta("a", "", (ToolCallDelta(0, "", "c", "f", after=1), ToolCallDelta(0, "{}", after=1)))
    first.add(MessageDelta("b", "", (ToolCallDelta(1, "", "d", "g", after=1),)))
    first.add(MessageDelta("c"))
    segments = Segments()
    changes(segments, first)
    assert [(one.kind, one.text, one.name) for one in segments.all] == [
        ("text", "a", ""),
        ("call", "{}", "f"),
        ("text", "b", ""),
        ("call", "", "g"),
        ("text", "c", ""),
    ]


def test_pieces_of_one_kind_are_one_segment():
    segments = Segments()
    changes(segments, MessageDelta("a"), MessageDelta("b"), MessageDelta(), MessageDelta("c"))
    assert [one.text for one in segments.all] == ["abc"]


def test_an_answer_of_nothing_has_no_segment_unless_one_is_begun():
    segments = Segments()
    assert changes(segments, MessageDelta()) == []
    assert [change.action for change in segments.begin_text()] == ["open"] and segments.all[0].text == ""
