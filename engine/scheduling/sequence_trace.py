"""The trace of a sequence: when chunks of its prompt were computed and when it was preempted, for a traced request."""

import time

from engine.types import OutputTrace

__all__ = ["SequenceTrace"]

MAX_EVENTS = 256  # of a kind, between two outputs


class SequenceTrace:
    """What has happened since the last output that said so. Times are seconds since the engine's acceptance."""

    def __init__(self, accepted_s: float) -> None:
        self._accepted_s = accepted_s
        self._chunks: list[tuple[float, int]] = []
        self._preemptions: list[float] = []
        self._has_begun = False

    def add_chunk(self, num_tokens: int) -> None:
        """A step computes so many tokens, and there were more than one to compute."""
        if len(self._chunks) < MAX_EVENTS:
            self._chunks.append((self._age_s(), num_tokens))

    def add_preemption(self) -> None:
        if len(self._preemptions) < MAX_EVENTS:
            self._preemptions.append(self._age_s())

    def take(self) -> OutputTrace | None:
        """With the sequence's first output, and with the first one after something has happened."""
        if self._has_begun and not self._chunks and not self._preemptions:
            return None
        self._has_begun = True
        taken = OutputTrace(self._age_s(), tuple(self._chunks), tuple(self._preemptions))
        self._chunks.clear()
        self._preemptions.clear()
        return taken

    def _age_s(self) -> float:
        return time.monotonic() - self._accepted_s
