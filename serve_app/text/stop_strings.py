"""Stop-string checker: finds stop strings in streamed text, independent of how it is split."""

from collections.abc import Sequence

__all__ = ["StopStringChecker"]


class StopStringChecker:
    """Returns text up to the first stop string.

    The first is the one that is complete first; of two that end together the longer one. Text that may begin a stop
    string is held back.

        stop "\\nUser:"     push("Hi\\nUs") -> "Hi"     push("ing") -> "\\nUsing"
    """

    __slots__ = ("_firsts", "_buffer", "_include", "_patterns", "matched")

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self.matched: str | None = None  # the stop string that was found
        self._patterns = [_Pattern(stop) for stop in sorted(stops, key=len, reverse=True)]
        self._firsts = {stop[0] for stop in stops}
        self._buffer = ""
        self._include = include  # the stop string itself is returned too

    def push(self, text: str) -> str:
        """The text that certainly comes before any stop string; "" after a match."""
        if self.matched is not None:
            return ""
        if not self._buffer and not any(first in text for first in self._firsts):
            return text
        for position, char in enumerate(text):
            for pattern in self._patterns:
                if pattern.step(char):
                    return self._match(pattern.text, self._buffer + text[: position + 1])
        text = self._buffer + text
        num_buffer = max((pattern.num_matched for pattern in self._patterns), default=0)
        kept = len(text) - num_buffer
        self._buffer = text[kept:]
        return text[:kept]

    def flush(self) -> str:
        """The held-back text, at the end."""
        held, self._buffer = self._buffer, ""
        for pattern in self._patterns:
            pattern.num_matched = 0
        return held

    def _match(self, stop: str, text: str) -> str:
        self.matched, self._buffer = stop, ""
        return text if self._include else text[: len(text) - len(stop)]


class _Pattern:
    """Knuth-Morris-Pratt: a hostile stop string of a thousand characters costs as little as a short one."""

    __slots__ = ("_fallback", "num_matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0  # characters of `text` that the input ends with, less than all
        # _fallback[i]: length of the longest proper prefix of text[:i+1] that is also its suffix
        self._fallback = [0] * len(text)
        length = 0
        for index in range(1, len(text)):
            while length and text[index] != text[length]:
                length = self._fallback[length - 1]
            length += text[index] == text[length]
            self._fallback[index] = length

    def step(self, char: str) -> bool:
        """True if the input now ends with the whole text."""
        matched = self.num_matched
        while matched and char != self.text[matched]:
            matched = self._fallback[matched - 1]
        matched += char == self.text[matched]
        self.num_matched = matched
        return matched == len(self.text)
