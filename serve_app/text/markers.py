"""Markers: finds the markers of reasoning and tool calls in streamed text."""

from collections.abc import Sequence

__all__ = ["could_begin", "split_at_marker"]


def split_at_marker(text: str, markers: Sequence[str]) -> tuple[str, str | None, str]:
    """(text before the first marker, that marker, the rest).

    Without a marker the second is None, and the rest is a suffix that may begin one. Of two markers at the same place
    the longer one wins.
    """
    found = [(text.find(marker), -len(marker), marker) for marker in markers if marker in text]
    if found:
        begin, _, marker = min(found)
        return text[:begin], marker, text[begin + len(marker) :]
    held = max((_overlap(text, marker) for marker in markers), default=0)
    return text[: len(text) - held], None, text[len(text) - held :]


def could_begin(text: str, markers: Sequence[str]) -> bool:
    """Whether the text is a proper prefix of a marker."""
    return any(len(text) < len(marker) and marker.startswith(text) for marker in markers)


def _overlap(text: str, marker: str) -> int:
    """The length of the longest suffix of the text that is a prefix of the marker."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
