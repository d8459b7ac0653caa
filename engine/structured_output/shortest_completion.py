"""The search of a short completion: few tokens that satisfy a grammar from a matcher's state, not always the fewest.

A greedy walk takes forced tokens, closes what can be closed, and else tries each kind of character in turn. With steps
left, the other options of its forks are tried one by one, and what shortens the completion is kept (local search). The
budget counts steps, never time: the same state gives the same completion on every machine.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from llguidance import LLMatcher

from engine.structured_output.json_hints import BETWEEN, BLANKS, CLOSING, search_order

__all__ = ["CompletionFinder"]

WIDE = 40  # allowed characters; more of them are free text
MAX_FORKS = 200  # kept of one walk
MAX_TURNS = 8  # other options tried at one fork
MAX_WORDS = 64  # of the vocabulary, to lengthen a text
MAX_SPELLED = 400  # combinations of pattern literals that are tried
SPLIT_PER_STEP = 8  # characters whose tokenization costs as much as one step
LONGEST_PIECE = 24  # bytes of a token that is looked up
SPECIAL = b"\xff"  # llguidance's prefix of a special token


class _Fork(msgspec.Struct):
    at: int  # tokens before it
    matcher: LLMatcher
    turns: list[int]  # the options that were not taken


class _Walk(msgspec.Struct):
    tokens: list[int]
    forks: list[_Fork]


class CompletionFinder:
    """Finds completions in one vocabulary. Stateless towards matchers."""

    def __init__(self, tokens: Sequence[bytes], special_ids: Sequence[int], end_ids: Sequence[int]) -> None:
        special = {*special_ids, *end_ids}
        self._bytes = tokens
        self._end = end_ids[0]
        self._special = frozenset(special)
        self._ids = {data: id for id, data in reversed(list(enumerate(tokens))) if data and id not in special}
        self._marks = [id for id in special_ids if id not in end_ids and id < len(tokens)]
        # words and numbers, the longest first: they lengthen a text that has a minimal length
        self._fillers = [self._ids[data] for data in _fillers(self._ids)]
        self._words = -(-len(tokens) // 32)

    def find(self, matcher: LLMatcher, grammar: str, effort: int, enough: int = 0) -> tuple[int, ...] | None:
        """The tokens, the end token last. None if none was found within `effort` steps. `matcher` is not changed.

        grammar   the matcher's grammar, for the hints of json_hints.py
        enough    a completion of so few tokens ends the search
        """
        search = _Search(self, search_order(grammar), effort)
        best = search.walk(matcher.deep_copy(), [], effort)
        if best is None:
            return None
        fewest, at = self.fewest(best.tokens), 0
        while at < len(best.forks) and len(fewest) >= enough and search.effort > 0:
            fork = best.forks[at]
            if not fork.turns:
                at += 1
                continue
            turn = fork.turns.pop(0)
            other = search.walk(fork.matcher.deep_copy(), [turn], 2 * len(best.tokens) + 50)
            if other is None:
                continue
            tokens = best.tokens[: fork.at] + other.tokens
            search.effort -= len(tokens) // SPLIT_PER_STEP
            shorter = self.fewest(tokens)
            if len(shorter) < len(fewest):
                for later in other.forks:
                    later.at += fork.at
                best, fewest = _Walk(tokens, best.forks[: at + 1] + other.forks), shorter
        plan = (*fewest, self._end)
        return plan if matcher.validate_tokens(list(plan)) == len(plan) else None

    def fewest(self, tokens: Sequence[int]) -> list[int]:
        """The same text in the fewest tokens. Special tokens stay."""
        out: list[int] = []
        text = b""
        for token in tokens:
            if token in self._special:
                out += [*self._split(text), token]
                text = b""
            else:
                text += self._bytes[token]
        return out + self._split(text)

    def longest(self, data: bytes) -> list[int]:
        """Greedy longest-match tokenization, up to the first byte that has no token."""
        ids, at = [], 0
        while at < len(data):
            for size in range(min(LONGEST_PIECE, len(data) - at), 0, -1):
                token = self._ids.get(data[at : at + size])
                if token is not None:
                    ids.append(token)
                    at += size
                    break
            else:
                break
        return ids

    def _split(self, text: bytes) -> list[int]:
        # by_len[i]: the fewest tokens of text[:i], and the last of them
        by_len: list[tuple[int, int]] = [(0, -1)]
        for stop in range(1, len(text) + 1):
            best = (len(text) + 1, -1)
            for start in range(max(0, stop - LONGEST_PIECE), stop):
                if by_len[start][0] + 1 < best[0]:
                    token = self._ids.get(text[start:stop])
                    if token is not None:
                        best = (by_len[start][0] + 1, token)
            by_len.append(best)
        out, at = [], len(text)
        while at:
            token = by_len[at][1]
            out.append(token)
            at -= len(self._bytes[token])
        return out[::-1]


class _Search:
    """The walks of one search, with their common step budget and the orders in which they try characters."""

    def __init__(self, finder: CompletionFinder, order: tuple[bytes, bytes, list[bytes]], effort: int) -> None:
        self.effort = effort
        self._finder = finder
        marks = finder._marks
        narrow, wide = ([finder._ids.get(bytes([byte]), -1) for byte in one] for one in order[:2])
        self._words = [ids for word in order[2] if (ids := finder.longest(word))]
        self._quote = finder._ids.get(b'"', -1)
        cut = len(CLOSING)
        ordered = [*narrow[:cut], *marks, *narrow[cut:]], [self._quote, *marks, *wide]
        self._narrow, self._wide = (np.array([one for one in ids if one >= 0], np.int64) for ids in ordered)
        self._bits = np.empty(finder._words, np.int32)

    def walk(self, matcher: LLMatcher, tokens: list[int], most: int) -> _Walk | None:
        """Walks from the matcher's state, `tokens` first, to the end. Advances the matcher. `most`: tokens at most."""
        if tokens and not matcher.consume_tokens(tokens):
            return None
        walk, taken = _Walk(list(tokens), []), Counter[tuple[int, str | int]]()
        while not matcher.is_accepting():
            self.effort -= 1
            if self.effort < 0 or matcher.is_error() or len(walk.tokens) > most:
                return None
            forced = matcher.compute_ff_bytes().partition(SPECIAL)[0]
            tokens = self._finder.longest(forced) or self._forks(matcher, walk, taken)
            if not tokens or not matcher.consume_tokens(tokens):
                return None
            walk.tokens += tokens
        return walk

    def _forks(self, matcher: LLMatcher, walk: _Walk, taken: Counter[tuple[int, str | int]]) -> list[int]:
        """The tokens to take at a choice; the other options are noted as a fork."""
        matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        options = self._allowed(self._narrow)
        is_wide = len(options) > WIDE
        if is_wide:
            options = self._allowed(self._wide)
            if self._quote not in options:
                text = self._fill(matcher) or self._spell(matcher)
                if text:
                    return text
        if not options:
            return []
        place = hash(self._bits.tobytes())
        kinds = [str(token) if is_wide else _kind(self._finder._bytes[token]) for token in options]
        first = min(range(len(options)), key=lambda i: (taken[place, kinds[i]], taken[place, options[i]], i))
        if not is_wide and self._finder._bytes[options[first]] in BETWEEN:
            taken.clear()  # the same options later are another choice
        else:
            taken.update([(place, kinds[first]), (place, options[first])])
        is_closed = is_wide and options[first] == self._quote
        if len(options) > 1 and not is_closed and len(walk.forks) < MAX_FORKS:
            walk.forks.append(_Fork(len(walk.tokens), matcher.deep_copy(), _turns(options, kinds, first)))
        return [options[first]]

    def _allowed(self, tokens: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[int]:
        bits = self._bits[tokens >> 5] >> (tokens & 31).astype(np.int32) & 1
        allowed: list[int] = tokens[bits.astype(bool)].tolist()
        return allowed

    def _fill(self, matcher: LLMatcher) -> list[int]:
        """Words up to where the text may be closed; none if that does not help."""
        matcher, out = matcher.deep_copy(), list[int]()
        while len(out) < MAX_WORDS:
            self.effort -= 1
            token = next((one for one in self._finder._fillers if matcher.validate_tokens([one])), None)
            if token is None or not matcher.consume_token(token):
                return []
            out.append(token)
            if matcher.validate_tokens([self._quote]):
                return out
        return []

    def _spell(self, matcher: LLMatcher) -> list[int]:
        """The fewest pattern literals after which the text may be closed; none if many are needed."""
        texts = [(matcher, list[int]())]
        for before, out in texts:
            for word in self._words if len(texts) < MAX_SPELLED else ():
                self.effort -= 1
                after = before.deep_copy()
                if after.validate_tokens(word) < len(word) or not after.consume_tokens(word):
                    continue
                if after.validate_tokens([self._quote]):
                    return [*out, *word]
                texts.append((after, [*out, *word]))
        return []


def _kind(data: bytes) -> str:
    """The kind of a character: kinds take turns in the order of options."""
    if len(data) != 1:
        return repr(data)
    char = chr(data[0])
    return "0" if char.isdigit() else char if not char.isalpha() else "A" if char.isupper() else "a"


def _turns(options: list[int], kinds: list[str], first: int) -> list[int]:
    """The other options of a fork, only a few of each kind."""
    many = {kind for kind, count in Counter(kinds).items() if count > 9}
    turns, seen = [], {kinds[first]} & many
    for token, kind in zip(options, kinds, strict=True):
        if token != options[first] and kind not in seen and kind not in BLANKS:
            turns.append(token)
        if kind in many:
            seen.add(kind)
    return turns[:MAX_TURNS]


def _fillers(ids: dict[bytes, int]) -> list[bytes]:
    by_size: dict[tuple[int, bool], bytes] = {}
    for data in ids:
        if 1 <= len(data) <= 16 and data.isalnum() and data.isascii() and (data.isdigit() or data.islower()):
            if data.isdigit() or data.isalpha():
                by_size.setdefault((len(data), data.isdigit()), data)
    return [by_size[key] for key in sorted(by_size, key=lambda key: (-key[0], key[1]))]
