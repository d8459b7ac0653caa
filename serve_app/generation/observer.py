"""The one hook for streams: metrics, result cache and admission observe an answer while it is generated."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage

__all__ = ["StreamObserver", "UsageSource", "observed"]


class UsageSource(Protocol):
    """Tokens so far."""

    def usage(self) -> Usage: ...
    def usage_of(self, index: int) -> Usage: ...


class StreamObserver(Protocol):
    """Watches one answer. Nothing here may wait, or change what it is given."""

    def on_start(self, output: UsageSource) -> None:
        """Before the engine is asked. May raise Overloaded: then the answer ends here, and `on_end` does not come."""
        ...

    def on_delta(self, delta: ChoiceDelta) -> None: ...

    def on_end(self, *, is_complete: bool) -> None:
        """Once, however the answer ends. It is complete if the consumer has taken all of it."""
        ...


@contextmanager
def observed(observers: Sequence[StreamObserver], output: UsageSource) -> Iterator[None]:
    """Tells observers of the beginning and, whatever happens, of the end of what runs inside."""
    is_complete = False

    def end(observer: StreamObserver) -> None:
        observer.on_end(is_complete=is_complete)

    with ExitStack() as ends:
        for observer in observers:
            observer.on_start(output)
            ends.callback(end, observer)
        yield
        is_complete = True
