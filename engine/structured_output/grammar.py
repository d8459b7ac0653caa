"""Grammar masks for structured output: which tokens a grammar allows next. llguidance does the parsing.

A grammar is given in llguidance's own form (its Lark dialect, or the JSON that its `grammar_from_*` functions return),
so JSON schemas, regular expressions, choices and tool calls are all the same thing down here. A matcher is a function
of the tokens it has consumed: a request that moves to another engine consumes its old tokens again and goes on.
"""

import random
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

import llguidance
import llguidance.numpy
import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.structured_output.grammar_start import GrammarStart
from engine.structured_output.output_budget import OutputBudget
from engine.structured_output.shortest_completion import CompletionFinder
from engine.types import Fit, Grammar

__all__ = ["GrammarError", "Matcher", "TokenTable", "Vocabulary"]

# what one request may cost, about a tenth of llguidance's defaults: seconds become tenths of a second. What a row may
# hold is not the cost (that is step_max_items): the default of 2,000 stops a rule of as many alternatives.
INITIAL_LEXER_FUEL, STEP_LEXER_FUEL = 1_000_000, 200_000
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=20_000,
    initial_lexer_fuel=INITIAL_LEXER_FUEL,
    step_lexer_fuel=STEP_LEXER_FUEL,
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


# what llguidance says when a limit is reached, and what that means to who wrote the grammar
REACHED = [
    (
        r"Current row has (\d+) items; max is (\d+)",
        "{0} rules and alternatives are open at one place, at most {1} can be",
    ),
    (
        r"Too many items \(limit (\d+)",
        "one token can go on in more than {0} rules and alternatives, which is the limit",
    ),
    (
        r"too many (expressions constructed|states)|[Ff]uel exhausted|LexerTooComplex",
        "its patterns, lengths and names are too complex together: "
        f"at most {INITIAL_LEXER_FUEL} steps may be taken at first, {STEP_LEXER_FUEL} for one token",
    ),
    (
        r"grammar size \(number of symbols\) too big \(limit for this grammar: (\d+)",
        "it has more than {0} symbols, which is the limit",
    ),
    (
        r"initial lexer configuration \(grammar\) too big \(limit for this grammar: (\d+)",
        "its patterns, lengths and names are larger together than the limit of {0}",
    ),
]
DEAD_END = "it has come to a place where no text can follow"
NUM_WALKS, WALK_TOKENS = 3, 12  # some 10 ms
CACHE_BYTES = 4_000_000  # of grammar text; compiled it takes some twenty times as much
MAX_COMPILED = 256  # grammars: some take much more
EFFORT = 5_000  # steps to find a short end of a whole grammar, mostly a millisecond, at worst some tenths of a second


class GrammarError(Exception):
    """The grammar is wrong, or became too expensive to follow. The message says where."""


class GrammarLimitReached(GrammarError):
    """The grammar became too expensive to follow. The message names the limit."""


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
        self._crossings: dict[bytes, dict[int, tuple[int, ...]]] = {}  # by the text that ends the thinking
        self._lock = threading.Lock()
        self._finder: CompletionFinder | None = None  # made when it is first needed
        self._end_ids = vocabulary.end_ids
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
        """Raises GrammarError for a grammar that does not compile within the limits, or cannot be followed within them
        for its first tokens. Once it passed, it is quick.
        """
        matcher = self.compiled(text)
        if matcher.is_error():
            raise _error(matcher)
        mask = np.empty((1, -(-self.vocab_size // 32)), dtype=np.int32)
        llguidance.numpy.fill_next_token_bitmask(matcher, mask)
        if matcher.is_error():
            raise _error(matcher)
        if not mask.any():
            raise GrammarError("nothing satisfies it")
        for seed in range(NUM_WALKS):
            self._walk(matcher.deep_copy(), mask, random.Random(seed))

    def short_completion(self, text: str) -> tuple[int, ...]:
        """Few tokens that satisfy a grammar, the end token last. Raises GrammarError if none are found."""
        plan = self._find_ends().find(self.compiled(text), text, EFFORT)
        if plan is None:
            raise GrammarError("no short text that satisfies it was found")
        return plan

    def matcher(self, grammar: Grammar, output: Iterable[int] = ()) -> "Matcher":
        """Raises GrammarError, also for a budget that the grammar does not fit into."""
        fit = grammar.fit
        fitting = self._fitting(grammar.text, fit) if fit is not None else None
        beginning = GrammarStart(grammar.opens, grammar.begins_after, self.tokens)
        compiled = self.compiled(grammar.text)
        crossing = self._crossing(beginning.ends.text) if beginning.ends is not None else {}
        matcher = Matcher(compiled, beginning, fitting, self._end_ids, crossing, fit.budget if fit is not None else 0)
        for token in output:
            matcher.consume(token)
        return matcher

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
                while len(self._compiled) > MAX_COMPILED or sum(map(len, self._compiled)) > CACHE_BYTES:
                    self._compiled.popitem(last=False)
        return matcher

    def _walk(self, matcher: llguidance.LLMatcher, mask: NDArray[np.int32], rng: random.Random) -> None:
        """Follows a few tokens, taken by chance. Raises GrammarLimitReached; a dead end is no reason to refuse."""
        for _ in range(WALK_TOKENS):
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self.vocab_size]
            bits[list(self._end_ids)] = 0
            allowed = np.flatnonzero(bits)
            if not len(allowed):
                return
            matcher.consume_token(int(allowed[rng.randrange(len(allowed))]))
            mask = np.empty_like(mask)
            if not matcher.is_error():
                llguidance.numpy.fill_next_token_bitmask(matcher, mask)
            if matcher.is_error():
                error = _error(matcher)
                if isinstance(error, GrammarLimitReached):
                    raise error
                return

    def _fitting(self, text: str, fit: Fit) -> OutputBudget:
        plan = fit.plan
        if not plan or self.compiled(text).validate_tokens(list(plan)) != len(plan):
            plan = self.short_completion(text)
        return OutputBudget(self._find_ends(), text, plan, self._end_ids)

    def _crossing(self, text: bytes) -> dict[int, tuple[int, ...]]:
        """The tokens that complete a text and go on: by the number of its bytes that were said before."""
        known = self._crossings.get(text)
        if known is None:
            known = {size: () for size in range(len(text))}
            for token, word in enumerate(self.tokens):
                if text[-1] in word[:-1]:
                    for size in _crossed(text, word):
                        known[size] += (token,)
            self._crossings[text] = known
        return known

    def _find_ends(self) -> CompletionFinder:
        if self._finder is None:
            self._finder = CompletionFinder(self.tokens, self.special_token_ids, self._end_ids)
        return self._finder

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
    """One answer's place in its grammar. Where thinking may come first, it may be opened or the grammar followed."""

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        beginning: GrammarStart,
        fitting: OutputBudget | None,
        end_ids: tuple[int, ...],
        crossing: dict[int, tuple[int, ...]],
        budget: int,
    ) -> None:
        """crossing   tokens in which the thinking ends and the answer begins, by the bytes of its end said before
        budget     is only read with `fitting`
        """
        self._fresh = matcher  # stands at the grammar's beginning
        self._follows: llguidance.LLMatcher | None = matcher.deep_copy()  # None: what was said is no beginning of it
        self._beginning = beginning
        self._fitting = fitting
        self._num_needed = fitting.num_needed if fitting is not None else 0  # tokens that certainly satisfy it
        self._room = budget  # tokens that may come
        # an answer may end in its thinking only if it may be empty
        self._ending = () if matcher.is_accepting() else end_ids
        self._crossing = crossing
        num_before = beginning.num_left if beginning.place == "inside" else 0
        if fitting is not None and budget < num_before + self._num_needed:
            raise GrammarError(f"it needs {num_before + self._num_needed} tokens, {budget} may come")

    @property
    def holds(self) -> bool:
        """There will be no thinking any more."""
        return self._beginning.place == "after"

    @property
    def _forbidden(self) -> tuple[int, ...]:
        """Tokens that must not come inside the thinking. The answer's first token is one of its grammar's."""
        ends = self._beginning.ends
        begun = ends.begun() if ends is not None else ()
        return sum((self._crossing.get(size, ()) for size in begun), self._ending)

    def fill(self, bits: NDArray[np.int32]) -> None:
        """Writes one row of a mask, [ceil(V / 32)]: bit 1 means allowed. Raises GrammarError."""
        place = self._beginning.place
        if place == "inside":
            bits.fill(-1)
            for token in self._forbidden:
                bits.view(np.uint32)[token // 32] &= ~(1 << token % 32) & 0xFFFFFFFF
            return
        if self._follows is None:
            bits.fill(0)
        elif self._fitting is not None and 0 < self._room == self._fitting.num_needed:
            bits.fill(0)
            _allow(bits, self._fitting.next_token)
        else:
            self._follows.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            self._raise_on_error()
        if place == "before" and self._may_open:
            _allow(bits, self._beginning.next_token)

    def settle(self, token: int) -> int:
        """The token to take in place of a chosen one: another one only where the answer would not fit any more."""
        fitting, beginning = self._fitting, self._beginning
        if fitting is None:
            return token
        if beginning.place == "inside":
            fits = beginning.num_left_after(token) + self._num_needed < self._room
            return token if fits and token not in self._forbidden else beginning.next_token
        if self._follows is None:
            return beginning.next_token
        if beginning.place == "before" and self._may_open and token == beginning.next_token:
            return token
        return fitting.settle(self._follows, token, self._room)

    def consume(self, token: int) -> None:
        """Takes the chosen token. Raises GrammarError for one that was not allowed."""
        was = self._beginning.place
        self._beginning.consume(token, may_open=self._may_open)
        if was != "inside" and self._beginning.place != "inside":
            self._follow(token, may_open=self._beginning.place == "before")
        elif was == "before":  # thinking it is: whatever of the grammar was followed, it begins anew
            self._follows = self._fresh.deep_copy()
            self._fitting = self._fitting.anew() if self._fitting is not None else None
        self._room -= 1

    @property
    def _may_open(self) -> bool:
        """There is room for thinking."""
        return self._fitting is None or self._beginning.num_left + self._num_needed <= self._room

    def _follow(self, token: int, *, may_open: bool) -> None:
        matcher = self._follows
        if matcher is None or (may_open and not matcher.validate_tokens([token])):
            if not may_open:
                raise GrammarError("the answer neither opens the thinking nor follows the grammar")
            self._follows = None
            return
        if self._fitting is not None and not self._fitting.consume(matcher, token, self._room):
            if not may_open:
                raise GrammarError("it cannot be finished within its tokens any more")
            self._follows = None
            return
        matcher.consume_token(token)
        self._raise_on_error()

    def _raise_on_error(self) -> None:
        if self._follows is not None and self._follows.is_error():
            raise _error(self._follows)


def _crossed(text: bytes, word: bytes) -> list[int]:
    """How many bytes of the text may stand before a word in which it ends, and does not end with it."""
    within = [0] if text in word[:-1] else []
    longer = (size for size in range(1, len(text)) if size + len(word) > len(text))
    return within + [size for size in longer if word.startswith(text[size:])]


def _allow(bits: NDArray[np.int32], token: int) -> None:
    bits.view(np.uint32)[token // 32] |= 1 << token % 32


def _error(matcher: llguidance.LLMatcher) -> GrammarError:
    """What stopped a matcher, in words."""
    message = matcher.get_error()
    for pattern, words in REACHED:
        if found := re.search(pattern, message):
            return GrammarLimitReached(words.format(*found.groups()))
    if "NoExtension" in message:
        return GrammarError(DEAD_END)
    return GrammarError(_first_lines(message))


def _first_lines(message: str) -> str:
    """With what is wrong, where a drawing of the place stands between."""
    first, rest = message.strip().splitlines()[:2], message.strip().splitlines()[2:]
    return " ".join([*first, *(line for line in rest if line.startswith("error:"))])[:500]
