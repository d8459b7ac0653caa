"""Coalesced events (`stream_interval`): one event for several tokens."""

import msgspec

from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage
from serve_app.pipeline.renderer import StreamRenderer
from serve_app.transport.errors import Fault

__all__ = ["Coalesced"]


class Coalesced:
    """Writes one event for `interval` tokens of a choice. The first and the last token are not delayed."""

    def __init__(self, renderer: StreamRenderer, interval: int, num_choices: int) -> None:
        self._renderer = renderer
        self._interval = interval
        self._waiting: list[ChoiceDelta | None] = [None] * num_choices
        self._begun = [False] * num_choices

    @property
    def wants_usage(self) -> bool:
        return self._renderer.wants_usage

    def opening(self, usage: Usage) -> bytes:
        return self._renderer.opening(usage)

    def delta(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        index = delta.index
        waiting = self._waiting[index]
        joined = _joined(waiting, delta) if waiting is not None else delta
        if self._begun[index] and len(joined.tokens) < self._interval and delta.finish_reason is None:
            self._waiting[index] = joined
            return b""
        self._waiting[index] = None
        self._begun[index] = True
        return self._renderer.delta(joined, usage)

    def closing(self, usage: Usage) -> bytes:
        return self._renderer.closing(usage)

    def fault(self, fault: Fault) -> bytes:
        return self._renderer.fault(fault)


def _joined(first: ChoiceDelta, second: ChoiceDelta) -> ChoiceDelta:
    """Both deltas as one; its finish reason is that of `second`."""
    first.message.add(second.message)
    return msgspec.structs.replace(
        second, message=first.message, tokens=first.tokens + second.tokens, logprobs=first.logprobs + second.logprobs
    )
