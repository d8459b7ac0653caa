"""Finds a marker (such as `</think>`) in an answer's tokens, in any tokenization."""

import copy
from collections.abc import Sequence

__all__ = ["TokenMarker"]


class TokenMarker:
    """One answer's search for one marker.

    ids           the marker's own tokens, at least one
    token_bytes   the bytes of each token id; (): unknown, and only `ids` themselves are the marker
    """

    __slots__ = ("_ids", "_matched", "_tail", "_token_bytes", "text")

    def __init__(self, ids: tuple[int, ...], token_bytes: Sequence[bytes] = ()) -> None:
        # some tokenizers put a blank before every text
        self.text = b"".join(token_bytes[id] for id in ids).lstrip(b" ") if max(ids) < len(token_bytes) else b""
        self._ids = ids
        self._token_bytes = token_bytes
        self._matched = 0  # tokens of `ids` at the end of the output
        self._tail = b""  # the last bytes of the output, one less than the marker has

    def fork(self) -> "TokenMarker":
        return copy.copy(self)

    @property
    def next_token(self) -> int:
        """The token that begins the marker, or continues the part of it that the output ends with."""
        return self._ids[self._matched]

    @property
    def num_left(self) -> int:
        """Tokens until the marker is complete."""
        return len(self._ids) - self._matched

    def num_left_after(self, token: int) -> int:
        return 0 if self._completes(token) else len(self._ids) - self._matched_with(token)

    def consume(self, token: int) -> bool:
        """Advances by a token. True if the marker is complete with it."""
        found = self._completes(token)
        self._matched = 0 if found else self._matched_with(token)
        if self.text:
            self._tail = b"" if found else (self._tail + self._bytes_of(token))[-len(self.text) + 1 :]
        return found

    def partial_lengths(self) -> tuple[int, ...]:
        """The lengths in bytes of every prefix of the marker that the output ends with, 0 included."""
        return tuple(size for size in range(len(self._tail) + 1) if self._tail.endswith(self.text[:size]))

    def _completes(self, token: int) -> bool:
        if self.text:
            return self.text in self._tail + self._bytes_of(token)
        return self._matched_with(token) == len(self._ids)

    def _matched_with(self, token: int) -> int:
        """How many tokens of `ids` the output ends with, if this one comes next."""
        said = (*self._ids[: self._matched], token)
        sizes = range(min(len(said), len(self._ids)), 0, -1)
        return next((size for size in sizes if said[-size:] == self._ids[:size]), 0)

    def _bytes_of(self, token: int) -> bytes:
        return self._token_bytes[token] if token < len(self._token_bytes) else b""
