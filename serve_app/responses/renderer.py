"""Renderer of /v1/responses: segments to typed server-sent events with sequence numbers, or to one document.

response.created, response.in_progress, then for each item

    response.output_item.added
      text        response.content_part.added, output_text.delta ..., output_text.done, content_part.done
      reasoning   response.content_part.added, reasoning_text.delta ..., reasoning_text.done, content_part.done
      or, where a summary is asked for, response.reasoning_summary_part and reasoning_summary_text in their place
      call        response.function_call_arguments.delta ..., function_call_arguments.done
      custom      response.custom_tool_call_input.delta, custom_tool_call_input.done
    response.output_item.done

and at the end response.completed, response.incomplete or response.failed.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from engine.errors import EngineFailed
from engine.types import TokenLogprob
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.segments import Segment, SegmentChange, Segments
from serve_app.generation.usage import Usage
from serve_app.openai.logprobs import LOWEST, top_alternatives
from serve_app.pipeline.renderer import ResponseMetadata
from serve_app.responses.adapter import PreparedResponse
from serve_app.responses.document import ResponseDocument, custom_input
from serve_app.responses.errors import with_own_fields
from serve_app.text.vocabulary import Vocabulary
from serve_app.transport.errors import Fault
from serve_app.transport.sse import KEEP_ALIVE, json_text, typed_event

__all__ = ["ResponseState", "ResponseStream", "ResponsesRenderer"]


class PartEvents(msgspec.Struct, frozen=True):
    """The events of a part, and how they name it."""

    part: str  # .added, .done
    text: str  # .delta, .done
    index: str  # the part's place in its item
    has_logprobs: bool = False


OUTPUT = PartEvents("response.content_part", "response.output_text", "content_index", has_logprobs=True)
REASONING = PartEvents("response.content_part", "response.reasoning_text", "content_index")
SUMMARY = PartEvents("response.reasoning_summary_part", "response.reasoning_summary_text", "summary_index")
ARGUMENTS, CUSTOM = "response.function_call_arguments", "response.custom_tool_call_input"
ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}

encode = msgspec.json.encode


class ResponsesRenderer:
    """Of one response, whose state it keeps for whoever stores it."""

    id_prefix = "resp_"
    keep_alive = KEEP_ALIVE

    def __init__(self) -> None:
        self.state: ResponseState | None = None

    def stream(self, answer: PreparedResponse, metadata: ResponseMetadata, vocabulary: Vocabulary) -> "ResponseStream":
        self.state = ResponseState(answer, metadata, vocabulary)
        return ResponseStream(self.state, is_queued=answer.is_background)

    def document(
        self, answer: PreparedResponse, metadata: ResponseMetadata, vocabulary: Vocabulary
    ) -> "_WholeResponse":
        self.state = ResponseState(answer, metadata, vocabulary)
        return _WholeResponse(self.state)


class ResponseState:
    """A response while it is generated, the same for streams and documents."""

    def __init__(self, answer: PreparedResponse, metadata: ResponseMetadata, vocabulary: Vocabulary) -> None:
        self.document = ResponseDocument(answer, metadata)
        self._answer, self._vocabulary = answer, vocabulary
        self._segments = Segments()
        self._logprobs: dict[int, list[Any]] = {}  # by the index of the text
        self._pending: list[Any] = []  # of tokens whose text is held back
        self._end: ChoiceDelta | None = None
        self._final: dict[str, Any] | None = None

    @property
    def status(self) -> str:
        if self._end is None:
            return "in_progress"
        return "incomplete" if self._end.finish_reason == "length" else "completed"

    def push(self, delta: ChoiceDelta) -> Iterator[tuple[SegmentChange, list[Any]]]:
        """The changes, those of text with their tokens' log probabilities."""
        if delta.finish_reason == "abort":
            raise EngineFailed("the request was aborted")
        if self._answer.sends_logprobs:
            self._pending += [self._token_logprobs(entry) for entry in delta.logprobs]
        for change in self._segments.push(delta.message):
            yield change, self._taken(change)
        if delta.finish_reason is None:
            return
        self._end = delta
        if not self._segments.all:
            for change in self._segments.begin_text():
                yield change, []
        for change in self._segments.end():
            if self._pending and change.segment.kind == "text":  # of the end token
                self._logprobs.setdefault(change.segment.index, []).extend(self._pending)
            yield change, []

    def output(self) -> list[dict[str, Any]]:
        """The items so far. Only the last may be incomplete."""
        items = [self.item(segment) for segment in self._segments.all]
        if items and self.status != "completed" and "status" in items[-1]:
            items[-1]["status"] = "incomplete"
        return items

    def item(self, segment: Segment) -> dict[str, Any]:
        """The item of a closed segment."""
        is_cut = self.status == "incomplete" and segment is self._segments.all[-1]
        status = "incomplete" if is_cut else "completed"
        return self.document.item(segment, status, self._logprobs.get(segment.index))

    def final(self, usage: Usage) -> dict[str, Any]:
        """The response object at its end, the same for who stores it and for the client."""
        if self._final is None:
            self._final = self.document.body(self.status, self.output(), usage)
        return self._final

    def failed(self, fault: Fault) -> dict[str, Any]:
        fault = with_own_fields(fault)
        error = {"code": ERROR_CODES.get(fault.status, "server_error"), "message": fault.message}
        return self.document.body("failed", self.output(), None, error)

    def cancelled(self) -> dict[str, Any]:
        return self.document.body("cancelled", self.output())

    def _taken(self, change: SegmentChange) -> list[Any]:
        if not self._pending or change.action != "grow":
            return []
        taken, self._pending = self._pending, []
        if change.segment.kind != "text":
            return []
        self._logprobs.setdefault(change.segment.index, []).extend(taken)
        return taken

    def _token_logprobs(self, entry: TokenLogprob) -> dict[str, Any]:
        def shape(token: int, logprob: float) -> dict[str, Any]:
            data = self._vocabulary.shown_bytes[token] if token < self._vocabulary.num_tokens else b""
            return {"token": self._vocabulary.text(token), "logprob": max(logprob, LOWEST), "bytes": list(data)}

        num_top = self._answer.parts[0].request.sampling.num_logprobs
        top = [shape(*pair) for pair in top_alternatives(entry, num_top)]
        return {**shape(entry.token, entry.logprob), "top_logprobs": top}


class ResponseStream:
    """The StreamRenderer of responses."""

    wants_usage = False

    def __init__(self, state: ResponseState, *, is_queued: bool) -> None:
        self.state, self._is_queued = state, is_queued
        self._document = state.document
        self._number = 0  # of the next event
        self._head = b""  # of the open segment's deltas

    def opening(self, usage: Usage) -> bytes:
        return self.queued() + self._lifecycle("response.in_progress", self._document.body("in_progress", []))

    def queued(self) -> bytes:
        """The events before the engine has accepted a background response, once; else that it is created."""
        if self._number:
            return b""
        response = self._document.body("queued" if self._is_queued else "in_progress", [])
        created = self._lifecycle("response.created", response)
        return created + self._lifecycle("response.queued", response) if self._is_queued else created

    def delta(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        return b"".join(self._events(change, logprobs) for change, logprobs in self.state.push(delta))

    def closing(self, usage: Usage) -> bytes:
        final = self.state.final(usage)
        return self._lifecycle(f"response.{final['status']}", final)

    def fault(self, fault: Fault) -> bytes:
        return self._lifecycle("response.failed", self.state.failed(fault))

    def _events(self, change: SegmentChange, logprobs: list[Any]) -> bytes:
        segment = change.segment
        match change.action:
            case "open":
                return self._opened(segment)
            case "grow":
                return b"" if self._document.is_custom(segment) else self._grown(segment, change.text, logprobs)
        return self._closed(segment)

    def _opened(self, segment: Segment) -> bytes:
        item = self._document.item(segment, "in_progress")
        added = self._event("response.output_item.added", {"output_index": segment.index, "item": item})
        at: dict[str, Any] = {"item_id": item["id"], "output_index": segment.index}
        events = self._part_events(segment)
        if events is None:
            self._head = encode(at)[1:-1]
            return added
        at[events.index] = 0
        self._head = encode(at)[1:-1]
        return added + self._event(f"{events.part}.added", at | {"part": self._document.part(segment, "")})

    def _grown(self, segment: Segment, text: str, logprobs: list[Any]) -> bytes:
        events = self._part_events(segment)
        kind = f"{ARGUMENTS if events is None else events.text}.delta"
        more = b',"logprobs":' + encode(logprobs) if events is not None and events.has_logprobs else b""
        data = b'{"type":"%b","sequence_number":%d,%b,"delta":%b%b}'
        number, self._number = self._number, self._number + 1
        return typed_event(kind, data % (kind.encode(), number, self._head, json_text(text), more))

    def _closed(self, segment: Segment) -> bytes:
        item = self.state.item(segment)
        at: dict[str, Any] = {"item_id": item["id"], "output_index": segment.index}
        events = self._part_events(segment)
        if events is None:
            done = self._call_done(segment, at, item)
        else:
            at[events.index] = 0
            part = (item["summary"] if events is SUMMARY else item["content"])[0]
            said = at | {"text": part["text"]} | ({"logprobs": part["logprobs"]} if events.has_logprobs else {})
            done = self._event(f"{events.text}.done", said) + self._event(f"{events.part}.done", at | {"part": part})
        return done + self._event("response.output_item.done", {"output_index": segment.index, "item": item})

    def _part_events(self, segment: Segment) -> PartEvents | None:
        """None for a call."""
        match segment.kind:
            case "text":
                return OUTPUT
            case "reasoning":
                return SUMMARY if self._document.summarizes else REASONING
        return None

    def _call_done(self, segment: Segment, at: dict[str, Any], item: dict[str, Any]) -> bytes:
        if not self._document.is_custom(segment):
            return self._event(f"{ARGUMENTS}.done", at | {"name": item["name"], "arguments": item["arguments"]})
        text = custom_input(segment.text)
        delta = self._event(f"{CUSTOM}.delta", at | {"delta": text}) if text else b""
        return delta + self._event(f"{CUSTOM}.done", at | {"input": text})

    def _lifecycle(self, kind: str, response: dict[str, Any]) -> bytes:
        return self._event(kind, {"response": response})

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        number, self._number = self._number, self._number + 1
        data = encode({"type": kind, "sequence_number": number, **fields})
        return typed_event(kind, data if data.isascii() else _without_separators(data))


def _without_separators(data: bytes) -> bytes:
    """JSON without raw Unicode line separators, at which generic line readers would split."""
    return (
        data.replace(b"\xc2\x85", rb"\u0085").replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    )


class _WholeResponse:
    """The DocumentRenderer of responses."""

    def __init__(self, state: ResponseState) -> None:
        self.state = state

    def add(self, delta: ChoiceDelta) -> None:
        for _ in self.state.push(delta):
            pass

    def body(self, usage: Usage) -> bytes:
        return encode(self.state.final(usage))
