"""The state machine of a stream of Anthropic's events: what may follow what, from its documentation."""

from typing import Any

import msgspec

__all__ = ["checked_message", "typed_events"]

DELTAS = {
    "text": {"text_delta": "text"},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
}


def typed_events(body: str) -> list[dict[str, Any]]:
    """The JSON of every event, whose type is the event's name. Fails on anything else."""
    found = []
    assert body.endswith("\n\n")
    for block in body[:-2].split("\n\n"):
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def checked_message(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events make. Fails where one may not come."""
    start, *rest, before, last = [event for event in events if event["type"] != "ping"]
    assert (start["type"], before["type"], last) == ("message_start", "message_delta", {"type": "message_stop"})
    message = start["message"]
    assert message["content"] == [] and message["stop_reason"] is None and message["stop_sequence"] is None
    open_block: dict[str, Any] | None = None
    for event in rest:
        match event["type"]:
            case "content_block_start":
                assert open_block is None and event["index"] == len(message["content"])
                open_block = event["content_block"]
                message["content"].append(open_block)
                if open_block["type"] == "tool_use":
                    assert open_block["input"] == {}
                    open_block["input"] = ""
            case "content_block_delta":
                assert open_block is not None and event["index"] == len(message["content"]) - 1
                field = DELTAS[open_block["type"]][event["delta"]["type"]]
                assert event["delta"][field]
                open_block["input" if field == "partial_json" else field] += event["delta"][field]
            case "content_block_stop":
                assert open_block is not None and event["index"] == len(message["content"]) - 1
                if open_block["type"] == "tool_use":
                    open_block["input"] = msgspec.json.decode(open_block["input"] or "{}")
                open_block = None
            case other:
                raise AssertionError(other)
    assert open_block is None
    usage = message["usage"] | before["usage"]
    return message | before["delta"] | {"usage": usage}
