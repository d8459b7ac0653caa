"""The state machine of a stream of /v1/responses: what may follow what, from OpenAI's documentation."""

from typing import Any

from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.serve_app.messages.event_order import typed_events

__all__ = ["checked_response", "typed_events"]

EVENT = TypeAdapter(ResponseStreamEvent)
LAST = {"response.completed", "response.incomplete", "response.failed"}
PARTS = {
    "output_text": ("response.output_text", "text"),
    "reasoning_text": ("response.reasoning_text", "text"),
    "summary_text": ("response.reasoning_summary_text", "text"),
}
CALLS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
}


def checked_response(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The response that the events end with, which is what they make. Fails where one may not come."""
    for event in events:
        EVENT.validate_python(event)
    first = events[0]["sequence_number"]
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    kinds = [event["type"] for event in events]
    start = kinds.index("response.in_progress")
    assert kinds[: start + 1] in (
        ["response.created", "response.in_progress"],
        ["response.created", "response.queued", "response.in_progress"],
    )
    assert kinds[-1] in LAST and not LAST & set(kinds[:-1])
    rest, output = events[start + 1 : -1], []
    while rest:
        item, rest = _item(rest, len(output))
        output.append(item)
    final = events[-1]["response"]
    assert final["output"] == output and events[0]["response"]["output"] == []
    assert {event["response"]["id"] for event in events if "response" in event} == {final["id"]}
    return final


def _item(events: list[dict[str, Any]], index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    added = events[0]
    assert added["type"] == "response.output_item.added" and added["output_index"] == index
    id_ = added["item"]["id"]
    end = next(at for at, event in enumerate(events) if event["type"] == "response.output_item.done")
    done, inner = events[end], events[1:end]
    assert done["output_index"] == index and done["item"]["id"] == id_
    assert all(event["item_id"] == id_ and event["output_index"] == index for event in inner)
    if done["item"]["type"] in CALLS:
        name, field = CALLS[done["item"]["type"]]
        _text(inner, name, field, done["item"][field])
    else:
        is_summary = bool(done["item"].get("summary"))
        kind = "response.reasoning_summary_part" if is_summary else "response.content_part"
        assert inner[0]["type"] == f"{kind}.added" and inner[-1]["type"] == f"{kind}.done"
        (part,) = done["item"]["summary" if is_summary else "content"]
        assert inner[-1]["part"] == part and inner[0]["part"] == part | {"text": ""} | (
            {"logprobs": []} if "logprobs" in part else {}
        )
        assert all(event["summary_index" if is_summary else "content_index"] == 0 for event in inner)
        name, field = PARTS[part["type"]]
        _text(inner[1:-1], name, field, part["text"])
    return done["item"], events[end + 1 :]


def _text(events: list[dict[str, Any]], name: str, field: str, whole: str) -> None:
    *deltas, last = events
    assert last["type"] == f"{name}.done" and last[field] == whole
    assert all(event["type"] == f"{name}.delta" and event["delta"] for event in deltas)
    joined = "".join(event["delta"] for event in deltas)
    assert joined == whole or (field == "arguments" and (joined, whole) == ("", "{}"))
