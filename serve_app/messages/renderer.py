"""Renderer of /v1/messages: segments to server-sent events, or to one document.

message_start, ping, then for each block content_block_start, content_block_delta ..., content_block_stop, and at the
end message_delta with the stop reason and the usage, message_stop.
"""

from typing import Any

import msgspec

from engine.errors import EngineFailed
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.segments import Segment, SegmentChange, Segments
from serve_app.generation.usage import Usage
from serve_app.messages.adapter import PreparedMessage
from serve_app.messages.errors import error_body
from serve_app.messages.shapes import MessageBody, MessageUsage
from serve_app.pipeline.renderer import ResponseMetadata
from serve_app.tenants.sealing import seal
from serve_app.text.json_text import parse_json
from serve_app.text.vocabulary import Vocabulary
from serve_app.transport.errors import Fault
from serve_app.transport.sse import json_text, typed_event

__all__ = ["MessagesRenderer"]

PING = typed_event("ping", b'{"type":"ping"}')
STOP = typed_event("message_stop", b'{"type":"message_stop"}')
# the kind of a segment -> type and field of its deltas
DELTAS = {
    "reasoning": (b"thinking_delta", b"thinking"),
    "text": (b"text_delta", b"text"),
    "call": (b"input_json_delta", b"partial_json"),
}

encode = msgspec.json.encode


class MessagesRenderer:
    id_prefix = "msg_"
    keep_alive = PING

    def stream(self, answer: PreparedMessage, metadata: ResponseMetadata, vocabulary: Vocabulary) -> "_MessageStream":
        return _MessageStream(answer, metadata)

    def document(
        self, answer: PreparedMessage, metadata: ResponseMetadata, vocabulary: Vocabulary
    ) -> "_MessageDocument":
        return _MessageDocument(answer, metadata)


class _MessageStream:
    """The StreamRenderer of messages."""

    wants_usage = False

    def __init__(self, answer: PreparedMessage, metadata: ResponseMetadata) -> None:
        self._answer, self._metadata = answer, metadata
        self._segments = Segments()
        self._end: ChoiceDelta | None = None

    def opening(self, usage: Usage) -> bytes:
        usage = msgspec.structs.replace(usage, completion_tokens=0, reasoning_tokens=None)
        message = _body(self._metadata, [], None, usage)
        return typed_event("message_start", b'{"type":"message_start","message":%b}' % encode(message)) + PING

    def delta(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        if delta.finish_reason == "abort":
            raise EngineFailed("the request was aborted")
        events = [self._event(change) for change in self._segments.push(delta.message)]
        if delta.finish_reason is not None:
            self._end = delta
            events += [self._event(change) for change in self._segments.end()]
        return b"".join(events)

    def closing(self, usage: Usage) -> bytes:
        reason, sequence = _stop_reason(self._end, self._segments.all, self._answer)
        end = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": sequence}}
        return typed_event("message_delta", encode(end | {"usage": _usage(usage)})) + STOP

    def fault(self, fault: Fault) -> bytes:
        return typed_event("error", error_body(fault, self._metadata.id.removeprefix(MessagesRenderer.id_prefix)))

    def _event(self, change: SegmentChange) -> bytes:
        segment, answer = change.segment, self._answer
        match change.action:
            case "open":
                block = encode(_block(segment, answer, is_empty=True))
                data = b'{"type":"content_block_start","index":%d,"content_block":%b}' % (segment.index, block)
                return typed_event("content_block_start", data)
            case "grow":
                is_hidden = segment.kind == "reasoning" and answer.omits_thinking
                return b"" if is_hidden else _delta(segment.index, *DELTAS[segment.kind], change.text)
        data = b'{"type":"content_block_stop","index":%d}' % segment.index
        stop = typed_event("content_block_stop", data)
        if segment.kind != "reasoning":
            return stop
        return _delta(segment.index, b"signature_delta", b"signature", _signature(segment, answer)) + stop


class _MessageDocument:
    """The DocumentRenderer of messages."""

    def __init__(self, answer: PreparedMessage, metadata: ResponseMetadata) -> None:
        self._answer, self._metadata = answer, metadata
        self._segments = Segments()
        self._end: ChoiceDelta | None = None

    def add(self, delta: ChoiceDelta) -> None:
        for _ in self._segments.push(delta.message):
            pass
        if delta.finish_reason is not None:
            self._end = delta

    def body(self, usage: Usage) -> bytes:
        content = [_block(segment, self._answer) for segment in self._segments.all]
        return encode(_body(self._metadata, content, self._end, usage, self._segments.all, self._answer))


def _delta(index: int, kind: bytes, field: bytes, text: str) -> bytes:
    data = b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}'
    return typed_event("content_block_delta", data % (index, kind, field, json_text(text)))


def _block(segment: Segment, answer: PreparedMessage, *, is_empty: bool = False) -> dict[str, Any]:
    """The content block of a segment; an empty one begins it in a stream."""
    match segment.kind:
        case "text":
            return {"type": "text", "text": "" if is_empty else segment.text}
        case "call":
            arguments = {} if is_empty else _arguments(segment.text)
            return {"type": "tool_use", "id": segment.call_id, "name": segment.name, "input": arguments}
    if is_empty:
        return {"type": "thinking", "thinking": "", "signature": ""}
    thinking = "" if answer.omits_thinking else segment.text
    return {"type": "thinking", "thinking": thinking, "signature": _signature(segment, answer)}


def _signature(segment: Segment, answer: PreparedMessage) -> str:
    """The sealed text where thinking is omitted, else a sealed mark: the text itself comes back beside it."""
    place = f"{answer.parts[0].request.request_id}/{segment.index}"
    return seal(segment.text if answer.omits_thinking else "", answer.seal_key, place)


def _arguments(text: str) -> dict[str, Any]:
    """{} for a call that was cut."""
    try:
        value = parse_json(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _body(
    metadata: ResponseMetadata,
    content: list[dict[str, Any]],
    end: ChoiceDelta | None,
    usage: Usage,
    segments: list[Segment] | None = None,
    answer: PreparedMessage | None = None,
) -> MessageBody:
    reason, sequence = _stop_reason(end, segments or [], answer) if answer is not None else (None, None)
    return {
        "id": metadata.id,
        "type": "message",
        "role": "assistant",
        "model": metadata.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": {**_usage(usage), "service_tier": "standard"},
    }


def _stop_reason(end: ChoiceDelta | None, segments: list[Segment], answer: PreparedMessage) -> tuple[str, str | None]:
    """Stop reason and stop sequence."""
    assert end is not None, "an answer is written when it has finished"
    if end.finish_reason == "length":
        return "model_context_window_exceeded" if answer.is_cut_by_context else "max_tokens", None
    if isinstance(end.stop_reason, str):
        return "stop_sequence", end.stop_reason
    calls = any(segment.kind == "call" for segment in segments)
    return "tool_use" if calls and end.finish_reason in ("stop", "tool_calls") else "end_turn", None


def _usage(usage: Usage) -> MessageUsage:
    found: MessageUsage = {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
    if usage.reasoning_tokens is not None:
        found["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return found
