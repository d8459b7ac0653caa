"""The renderer protocol of an API: writes an answer as server-sent events or as one document."""

import time
from typing import Protocol, TypeVar

import msgspec

from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage
from serve_app.preparation.generate_request import PreparedAnswer
from serve_app.text.vocabulary import Vocabulary
from serve_app.transport.errors import Fault

__all__ = ["CompletionTime", "DocumentRenderer", "Renderer", "ResponseMetadata", "StreamRenderer"]

P = TypeVar("P", bound=PreparedAnswer, contravariant=True)


class CompletionTime:
    """When an answer was completed, in unix seconds: when that is first asked for, or as an earlier run had it."""

    def __init__(self, known: int | None = None) -> None:
        self._known = known

    def __call__(self) -> int:
        if self._known is None:
            self._known = int(time.time())
        return self._known


class ResponseMetadata(msgspec.Struct, frozen=True):
    """The constant metadata of one answer."""

    id: str
    created: int  # unix seconds
    model: str
    fingerprint: str | None
    completed: CompletionTime = msgspec.field(default_factory=CompletionTime)


class StreamRenderer(Protocol):
    """Writes server-sent events."""

    @property
    def wants_usage(self) -> bool:
        """Whether every event has the usage so far."""
        ...

    def opening(self, usage: Usage) -> bytes:
        """The events before any delta."""
        ...

    def delta(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        """The events of one delta, b"" if it is empty. `usage` may be None unless `wants_usage`."""
        ...

    def closing(self, usage: Usage) -> bytes: ...

    def fault(self, fault: Fault) -> bytes:
        """The last events of a stream that has failed after its first byte."""
        ...


class DocumentRenderer(Protocol):
    """Collects the deltas of an answer that is not streamed."""

    def add(self, delta: ChoiceDelta) -> None: ...
    def body(self, usage: Usage) -> bytes: ...


class Renderer(Protocol[P]):
    """The renderers of one API."""

    @property
    def id_prefix(self) -> str: ...
    @property
    def keep_alive(self) -> bytes:
        """Sent on a silent stream."""
        ...

    def stream(self, answer: P, metadata: ResponseMetadata, vocabulary: Vocabulary) -> StreamRenderer: ...
    def document(self, answer: P, metadata: ResponseMetadata, vocabulary: Vocabulary) -> DocumentRenderer: ...
