"""Finds a marker in an answer: the tokens that it is made of, or any others that spell the same text."""

from collections.abc import Sequence

__all__ = ["TokenMarker"]


class TokenMarker:
    """One answer's search for one marker.

    ids     the tokens to write it with, at least one
    words   what each token id stands for; (): unknown, and only `ids` themselves are the marker
    """

    __slots__ = ("_ids", "_matched", "_said", "_words", "text")

    def __init__(self, ids: tuple[int, ...], words: Sequence[bytes] = ()) -> None:
        # some tokenizers write a blank before every text
        self.text = b"".join(words[id] for id in ids).lstrip(b" ") if max(ids) < len(words) else b""
        self._ids = ids
        self._words = words
        self._matched = 0  # of `ids`, said last
        self._said = b""  # the last bytes that may begin it

    @property
    def next_token(self) -> int:
        """To write it, or to go on with what is begun of it."""
        return self._ids[self._matched]

    @property
    def num_left(self) -> int:
        """Tokens until it is written."""
        return len(self._ids) - self._matched

    def num_left_after(self, token: int) -> int:
        return 0 if self._completes(token) else len(self._ids) - self._matched_with(token)

    def consume(self, token: int) -> bool:
        """True if the marker is complete with this token."""
        found = self._completes(token)
        self._matched = 0 if found else self._matched_with(token)
        if self.text:
            self._said = b"" if found else (self._said + self._word(token))[-len(self.text) + 1 :]
        return found

    def begun(self) -> tuple[int, ...]:
        """How many bytes of it may have been said last: 0, and each beginning of it that ends here."""
        return tuple(size for size in range(len(self._said) + 1) if self._said.endswith(self.text[:size]))

    def _completes(self, token: int) -> bool:
        if self.text:
            return self.text in self._said + self._word(token)
        return self._matched_with(token) == len(self._ids)

    def _matched_with(self, token: int) -> int:
        """How many tokens of it have been said last, if this one comes next."""
        said = (*self._ids[: self._matched], token)
        sizes = range(min(len(said), len(self._ids)), 0, -1)
        return next((size for size in sizes if said[-size:] == self._ids[:size]), 0)

    def _word(self, token: int) -> bytes:
        return self._words[token] if token < len(self._words) else b""
