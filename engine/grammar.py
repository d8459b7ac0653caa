"""Which tokens a grammar allows next. llguidance does the parsing; nothing here knows what the text means.

A grammar is given in llguidance's own form (its Lark dialect, or the JSON that its `grammar_from_*` functions return),
so JSON schemas, regular expressions, choices and tool calls are all the same thing down here. A matcher is a function
of the tokens it has consumed: a request that moves to another engine consumes its old tokens again and goes on.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

import llguidance
import llguidance.numpy
import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.types import Grammar

__all__ = ["GrammarError", "Matcher", "TokenTable", "Vocabulary"]

# what one request may cost, about a tenth of llguidance's defaults: seconds become tenths of a second
LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


class Vocabulary(msgspec.Struct, frozen=True):
    """What each token id stands for."""

    tokens: tuple[bytes, ...]  # by token id
    special_ids: tuple[int, ...]  # never text
    end_ids: tuple[int, ...]  # any of these ends an answer


CACHE_BYTES = 4_000_000  # of grammar text; compiled it takes some twenty times as much


class GrammarError(Exception):
    """The grammar is wrong, or became too expensive to follow. The message says where."""


class TokenTable:
    """A vocabulary prepared for masks. Made once per model (some 0.1 s), shared by all matchers."""

    def __init__(
        self, vocabulary: Vocabulary, vocab_size: int, encode: Callable[[bytes], list[int]] | None = None
    ) -> None:
        """`vocab_size` is the model's: logits may have rows for ids that stand for nothing.

        Text that a grammar forces is allowed in one tokenization only, that of `encode` (UTF-8 to token ids); without
        it, in the one that takes the longest token each time.
        """
        self.vocab_size = vocab_size
        self._encode = encode or self._longest_tokens
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()  # the one used last stands last
        self._lock = threading.Lock()
        tokens = [*vocabulary.tokens[:vocab_size], *[b""] * (vocab_size - len(vocabulary.tokens))]
        self._ids = {token: id for id, token in reversed(list(enumerate(tokens))) if token}
        self._longest = max(map(len, self._ids), default=1)
        # what LLTokenizer asks of a tokenizer
        self.tokens = tokens
        self.special_token_ids = list(vocabulary.special_ids)
        self.eos_token_id = vocabulary.end_ids[0]
        self.bos_token_id = None
        self.tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(self), n_vocab=vocab_size, eos_token=list(vocabulary.end_ids)
        )

    def __call__(self, data: bytes) -> list[int]:
        return self._encode(data)

    def check(self, text: str) -> None:
        """Raises GrammarError for a grammar that does not compile within the limits. Once it passed, it is quick."""
        matcher = self.compiled(text)
        if matcher.is_error():
            raise GrammarError(_first_lines(matcher.get_error()))
        mask = np.empty((1, -(-self.vocab_size // 32)), dtype=np.int32)
        llguidance.numpy.fill_next_token_bitmask(matcher, mask)
        if matcher.is_error():
            raise GrammarError(_first_lines(matcher.get_error()))
        if not mask.any():
            raise GrammarError("nothing satisfies it")

    def matcher(self, grammar: Grammar, output: Iterable[int] = ()) -> "Matcher":
        return Matcher(self.compiled(grammar.text), grammar.begins_after, output)

    def compiled(self, text: str) -> llguidance.LLMatcher:
        """A matcher at its beginning. The grammars used last, up to CACHE_BYTES of text, are not compiled again."""
        with self._lock:
            known = self._compiled.get(text)
            if known is not None:
                self._compiled.move_to_end(text)
                return known.deep_copy()
        matcher = llguidance.LLMatcher(self.tokenizer, text, log_level=0, limits=LIMITS)  # other threads run meanwhile
        if not matcher.is_error():
            with self._lock:
                self._compiled[text] = matcher.deep_copy()
                while sum(map(len, self._compiled)) > CACHE_BYTES:
                    self._compiled.popitem(last=False)
        return matcher

    def _longest_tokens(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            length = next((n for n in range(self._longest, 0, -1) if data[at : at + n] in self._ids), None)
            if length is None:
                at += 1  # no token for this byte: it cannot be written at all
                continue
            ids.append(self._ids[data[at : at + length]])
            at += len(data[at : at + length])
        return ids


class Matcher:
    """One answer's place in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, begins_after: tuple[int, ...], output: Iterable[int]) -> None:
        self._matcher = matcher
        self._begins_after = begins_after
        self._tail: tuple[int, ...] = ()
        self._holds = not begins_after
        for token in output:
            self.consume(token)

    def fill(self, bits: NDArray[np.int32]) -> None:
        """Writes one row of a mask, [ceil(V / 32)]: bit 1 means allowed. Raises GrammarError."""
        if not self._holds:
            bits.fill(-1)
            return
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self._raise_on_error()

    def consume(self, token: int) -> None:
        """Takes the chosen token. Raises GrammarError for one that was not allowed."""
        if self._holds:
            self._matcher.consume_token(token)
            self._raise_on_error()
            return
        self._tail = (*self._tail, token)[-len(self._begins_after) :]
        self._holds = self._tail == self._begins_after

    def _raise_on_error(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(_first_lines(self._matcher.get_error()))


def _first_lines(message: str) -> str:
    return " ".join(message.strip().splitlines()[:2])[:500]
