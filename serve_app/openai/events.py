"""Server-sent events of chat and text completions: constant parts are bytes that are made once."""

import msgspec

from serve_app.api.responses import UsageInfo
from serve_app.generation.usage import Usage
from serve_app.pipeline.renderer import ResponseMetadata
from serve_app.request.options import Delivery
from serve_app.transport.errors import Fault
from serve_app.transport.sse import DONE

__all__ = ["EventWriter", "usage_info"]

encode = msgspec.json.encode


class EventWriter:
    """The constant parts of one answer's events.

    |<-- start ---------------------------------------------->| choice | system_fingerprint, usage |
    data: {"id": ..., "object": ..., "model": ..., "choices": [  {...}  ], ... }
    """

    def __init__(self, kind: str, metadata: ResponseMetadata, delivery: Delivery) -> None:
        fixed = {"id": metadata.id, "object": kind, "created": metadata.created, "model": metadata.model}
        self.start = b"data: " + encode(fixed)[:-1] + b',"choices":['
        self._fingerprint = metadata.fingerprint
        self.includes_usage = delivery.include_usage
        self.wants_usage = delivery.include_usage and delivery.continuous_usage

    def event(self, choice: bytes, usage: Usage | None, *, is_last: bool = False, start: bytes | None = None) -> bytes:
        """`choice` is JSON. The last event of a choice has the fingerprint, if there is no usage event."""
        fingerprint = self._fingerprint if is_last and not self.includes_usage else None
        return _event(start or self.start, choice, fingerprint, usage if self.wants_usage else None)

    def closing(self, usage: Usage) -> bytes:
        """The usage event, if it was requested, and [DONE]."""
        return _event(self.start, b"", self._fingerprint, usage) + DONE if self.includes_usage else DONE

    def fault(self, fault: Fault) -> bytes:
        return b"data: %b\n\n" % fault.body() + DONE


def _event(start: bytes, choice: bytes, fingerprint: str | None, usage: Usage | None) -> bytes:
    parts = [start, choice, b"]"]
    if fingerprint is not None:
        parts += (b',"system_fingerprint":', encode(fingerprint))
    if usage is not None:
        parts += (b',"usage":', encode(usage_info(usage)))
    parts.append(b"}\n\n")
    return b"".join(parts)


def usage_info(usage: Usage) -> UsageInfo:
    shape: UsageInfo = {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens": usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    if usage.reasoning_tokens is not None:
        shape["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.num_migrations:
        shape["migrations"] = usage.num_migrations
    if usage.mixed_kernels:
        shape["mixed_kernels"] = True
    return shape
