"""Fewer and larger events, for clients that ask for them."""

import msgspec

from serve_app.generation.choice import Delta
from serve_app.generation.reply import Usage
from serve_app.http.answer import EventForm

__all__ = ["Paced"]


class Paced:
    """Writes one event for `interval` tokens of a choice. The first token and the last go at once."""

    def __init__(self, form: EventForm, interval: int, num_choices: int) -> None:
        self._form = form
        self._interval = interval
        self._waiting: list[Delta | None] = [None] * num_choices
        self._begun = [False] * num_choices

    @property
    def wants_usage(self) -> bool:
        return self._form.wants_usage

    def opening(self, usage: Usage) -> bytes:
        return self._form.opening(usage)

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        index = delta.index
        waiting = self._waiting[index]
        joined = _joined(waiting, delta) if waiting is not None else delta
        if self._begun[index] and len(joined.tokens) < self._interval and delta.finish_reason is None:
            self._waiting[index] = joined
            return b""
        self._waiting[index] = None
        self._begun[index] = True
        return self._form.delta(joined, usage)

    def closing(self, usage: Usage) -> bytes:
        return self._form.closing(usage)


def _joined(first: Delta, second: Delta) -> Delta:
    """`second` ends what both say."""
    first.said.add(second.said)
    return msgspec.structs.replace(
        second, said=first.said, tokens=first.tokens + second.tokens, logprobs=first.logprobs + second.logprobs
    )
