"""The response object of /v1/responses and its output items, from the segments of an answer."""

from typing import Any

import msgspec

from serve_app.generation.segments import Segment
from serve_app.generation.usage import Usage
from serve_app.pipeline.renderer import ResponseMetadata
from serve_app.responses.adapter import PreparedResponse
from serve_app.responses.items import CUSTOM_INPUT
from serve_app.tenants.sealing import seal
from serve_app.text.json_text import parse_json

__all__ = ["ResponseDocument", "custom_input"]

PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}  # of the items' ids


class ResponseDocument:
    """What is the same in all events of one response."""

    def __init__(self, answer: PreparedResponse, metadata: ResponseMetadata) -> None:
        self._answer, self._completed = answer, metadata.completed
        self._sealed: dict[int, str] = {}  # by the segment's index: the same in all events
        # unique also if the client repeats its request id, as a response is kept under it
        self._base = answer.parts[0].request.request_id
        self.id = f"resp_{self._base}"
        self._head: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": metadata.created,
            "model": metadata.model,
            **msgspec.json.decode(answer.echoed),
        }

    @property
    def summarizes(self) -> bool:
        """Whether reasoning is sent as its own summary."""
        return self._answer.summarizes

    def part(self, segment: Segment, text: str, logprobs: list[Any] | None = None) -> dict[str, Any]:
        """The part of a text's or a reasoning's item."""
        if segment.kind == "reasoning":
            return {"type": "summary_text" if self.summarizes else "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}

    def item_id(self, segment: Segment) -> str:
        return f"{'ctc' if self.is_custom(segment) else PREFIXES[segment.kind]}_{self._base}_{segment.index}"

    def is_custom(self, segment: Segment) -> bool:
        form = self._answer.call_forms.get(segment.name) if segment.kind == "call" else None
        return form is not None and form.is_custom

    def body(
        self,
        status: str,
        output: list[dict[str, Any]],
        usage: Usage | None = None,
        error: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        is_over = status in ("completed", "incomplete", "failed", "cancelled")
        return self._head | {
            "status": status,
            "completed_at": self._completed() if status == "completed" else None,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": output,
            "usage": _usage(usage) if usage is not None and is_over else None,
        }

    def item(self, segment: Segment, status: str, logprobs: list[Any] | None = None) -> dict[str, Any]:
        """The item of a segment; in progress it is still empty."""
        is_empty = status == "in_progress"
        text = "" if is_empty else segment.text
        item: dict[str, Any] = {"id": self.item_id(segment), "status": status}
        match segment.kind:
            case "text":
                content = [] if is_empty else [self.part(segment, text, logprobs)]
                return item | {"type": "message", "role": "assistant", "content": content}
            case "reasoning":
                return item | self._reasoning(segment, text, is_empty=is_empty)
        form = self._answer.call_forms.get(segment.name)
        call = {"call_id": segment.call_id, "name": form.name if form is not None else segment.name}
        if form is not None and form.namespace is not None:
            call["namespace"] = form.namespace
        if self.is_custom(segment):
            del item["status"]
            return item | {"type": "custom_tool_call", **call, "input": custom_input(text)}
        return item | {"type": "function_call", **call, "arguments": text or ("" if is_empty else "{}")}

    def _reasoning(self, segment: Segment, text: str, *, is_empty: bool) -> dict[str, Any]:
        parts = [] if is_empty else [self.part(segment, text)]
        summary, content = (parts, []) if self.summarizes else ([], parts)
        item: dict[str, Any] = {"type": "reasoning", "summary": summary, "content": content}
        if self._answer.seals_reasoning:
            if not is_empty and segment.index not in self._sealed:
                self._sealed[segment.index] = seal(text, self._answer.seal_key, self.item_id(segment))
            item["encrypted_content"] = self._sealed.get(segment.index, "")
        return item


def custom_input(arguments: str) -> str:
    """The text for a custom tool; of a call that was cut, the arguments as they are."""
    try:
        value = parse_json(arguments or "{}")
    except ValueError:
        return arguments
    return str(value.get(CUSTOM_INPUT, "")) if isinstance(value, dict) else arguments


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
