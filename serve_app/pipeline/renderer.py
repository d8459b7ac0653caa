"""The renderer protocol: what an API must bring to have its answers written, as events or as one document."""

from typing import Protocol, TypeVar

import msgspec

from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage
from serve_app.preparation.generate_request import PreparedAnswer
from serve_app.text.vocabulary import Vocabulary
from serve_app.transport.errors import Fault

__all__ = ["DocumentRenderer", "Renderer", "ResponseMetadata", "StreamRenderer"]

P = TypeVar("P", bound=PreparedAnswer, contravariant=True)


class ResponseMetadata(msgspec.Struct, frozen=True):
    """What is the same in every piece of one answer."""

    id: str
    created: int  # unix seconds
    model: str
    fingerprint: str | None


class StreamRenderer(Protocol):
    """Writes server-sent events."""

    @property
    def wants_usage(self) -> bool:
        """Whether every event carries the usage so far."""
        ...

    def opening(self, usage: Usage) -> bytes:
        """What comes before any delta."""
        ...

    def delta(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        """The events for one delta, b"" where it adds nothing. `usage` may be None unless `wants_usage`."""
        ...

    def closing(self, usage: Usage) -> bytes: ...

    def fault(self, fault: Fault) -> bytes:
        """The end of a stream that has failed after its first byte."""
        ...


class DocumentRenderer(Protocol):
    """Gathers the deltas of an answer that is sent at once."""

    def add(self, delta: ChoiceDelta) -> None: ...
    def body(self, usage: Usage) -> bytes: ...


class Renderer(Protocol[P]):
    """One API's."""

    @property
    def id_prefix(self) -> str: ...
    def stream(self, answer: P, metadata: ResponseMetadata, vocabulary: Vocabulary) -> StreamRenderer: ...
    def document(self, answer: P, metadata: ResponseMetadata, vocabulary: Vocabulary) -> DocumentRenderer: ...
