"""Stream observers: the hook by which metrics, result cache and admission control follow an answer."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage

__all__ = ["StreamObserver", "UsageSource", "observed"]


class UsageSource(Protocol):
    """The token usage so far."""

    def usage(self) -> Usage: ...
    def usage_of(self, index: int) -> Usage: ...


class StreamObserver(Protocol):
    """Observes one answer. No call may block or change its arguments."""

    def on_start(self, output: UsageSource) -> None:
        """Before the request is submitted. If this raises Overloaded, the answer ends and `on_end` is not called."""
        ...

    def on_delta(self, delta: ChoiceDelta) -> None: ...

    def on_end(self, *, is_complete: bool, error: Exception | None) -> None:
        """Once, at any end of the answer.

        is_complete   the consumer has taken all of it
        error         with which it ends; None also where the consumer has left
        """
        ...


@contextmanager
def observed(observers: Sequence[StreamObserver], output: UsageSource) -> Iterator[None]:
    """Calls the observers' on_start, and on_end however the block ends."""
    is_complete, raised = False, None

    def end(observer: StreamObserver) -> None:
        observer.on_end(is_complete=is_complete, error=raised)

    with ExitStack() as ends:
        for observer in observers:
            observer.on_start(output)
            ends.callback(end, observer)
        try:
            yield
        except Exception as error:
            raised = error
            raise
        is_complete = True
