"""Grammar masks for structured output: which tokens a grammar allows next. llguidance does the parsing.

A grammar is given in llguidance's own form (its Lark dialect, or the JSON that its `grammar_from_*` functions return),
so JSON schemas, regular expressions, choices and tool calls are the same thing here. A matcher's state is a function of
the tokens that it has consumed: after request migration they are consumed again.
"""

import copy
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

# what one request may cost: about a tenth of llguidance's defaults, tenths of a second at worst. Only max_items_in_row
# is larger, since step_max_items bounds the cost: the default of 2,000 refuses a rule of as many alternatives.
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
    """The tokenizer's vocabulary: the bytes of each token id."""

    tokens: tuple[bytes, ...]  # by token id
    special_ids: tuple[int, ...]  # never text
    end_ids: tuple[int, ...]  # any of these ends an answer


# llguidance's message for a limit that is reached -> ours
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
MAX_COMPILED = 256  # grammars: some take much more than their text
EFFORT = 5_000  # steps of the search for a short completion: mostly 1 ms, at worst some 0.1 s


class GrammarError(Exception):
    """The grammar is wrong, or became too expensive to follow. The message says where."""


class GrammarLimitReached(GrammarError):
    """The grammar became too expensive to follow. The message names the limit."""


class TokenTable:
    """llguidance's tokenizer of a vocabulary, and compiled grammars. One per model (0.1 s), shared by matchers."""

    def __init__(
        self, vocabulary: Vocabulary, vocab_size: int, encode: Callable[[bytes], list[int]] | None = None
    ) -> None:
        """`vocab_size` is the model's: logits may have columns for ids that are no tokens.

        Text that a grammar forces is tokenized by `encode` (UTF-8 to token ids), and allowed in no other way; without
        it, by the longest match.
        """
        self.vocab_size = vocab_size
        self._encode = encode or self._longest_tokens
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()  # the least recently used one first
        self._straddling_by_text: dict[bytes, dict[int, tuple[int, ...]]] = {}  # by the text that ends the reasoning
        self._lock = threading.Lock()
        self._finder: CompletionFinder | None = None  # made at first use
        self._end_ids = vocabulary.end_ids
        tokens = [*vocabulary.tokens[:vocab_size], *[b""] * (vocab_size - len(vocabulary.tokens))]
        self._ids = {token: id for id, token in reversed(list(enumerate(tokens))) if token}
        self._longest = max(map(len, self._ids), default=1)
        # what llguidance.TokenizerWrapper reads
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
        """Raises GrammarError for a grammar that does not compile within LIMITS, or exceeds them within its first
        tokens. A grammar that passed is cached.
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
        """The matcher after `output`. Raises GrammarError, also for an output budget that is too small."""
        fit = grammar.fit
        output_budget = self._output_budget(grammar.text, fit) if fit is not None else None
        start = GrammarStart(grammar.opens, grammar.begins_after, self.tokens)
        compiled = self.compiled(grammar.text)
        straddling = self._straddling(start.ends.text) if start.ends is not None else {}
        matcher = Matcher(
            compiled, start, output_budget, self._end_ids, straddling, fit.budget if fit is not None else 0
        )
        for token in output:
            matcher.consume(token)
        return matcher

    def compiled(self, text: str) -> llguidance.LLMatcher:
        """A fresh matcher of a grammar, from an LRU cache of up to CACHE_BYTES of text."""
        with self._lock:
            known = self._compiled.get(text)
            if known is not None:
                self._compiled.move_to_end(text)
                return known.deep_copy()
        matcher = llguidance.LLMatcher(self.tokenizer, text, log_level=0, limits=LIMITS)  # releases the GIL
        if not matcher.is_error():
            with self._lock:
                self._compiled[text] = matcher.deep_copy()
                while len(self._compiled) > MAX_COMPILED or sum(map(len, self._compiled)) > CACHE_BYTES:
                    self._compiled.popitem(last=False)
        return matcher

    def _walk(self, matcher: llguidance.LLMatcher, mask: NDArray[np.int32], rng: random.Random) -> None:
        """Consumes a few random allowed tokens. Raises GrammarLimitReached; a dead end is no reason to refuse."""
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

    def _output_budget(self, text: str, fit: Fit) -> OutputBudget:
        plan = fit.plan
        if not plan or self.compiled(text).validate_tokens(list(plan)) != len(plan):
            plan = self.short_completion(text)
        return OutputBudget(self._find_ends(), text, plan, self._end_ids)

    def _straddling(self, text: bytes) -> dict[int, tuple[int, ...]]:
        """The tokens that complete `text` and have bytes after it, by how many bytes of it came before."""
        known = self._straddling_by_text.get(text)
        if known is None:
            known = {size: () for size in range(len(text))}
            for token, word in enumerate(self.tokens):
                if text[-1] in word[:-1]:
                    for size in _overlaps(text, word):
                        known[size] += (token,)
            self._straddling_by_text[text] = known
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
                at += 1  # no token has this byte: it cannot be written
                continue
            ids.append(self._ids[data[at : at + length]])
            at += len(data[at : at + length])
        return ids


class Matcher:
    """One answer's grammar state. Before the reasoning, both its start marker and the grammar's tokens are allowed."""

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        start: GrammarStart,
        output_budget: OutputBudget | None,
        end_ids: tuple[int, ...],
        straddling: dict[int, tuple[int, ...]],
        budget: int,
    ) -> None:
        """straddling   tokens that end the reasoning and begin the answer, by how many bytes of the marker came before
        budget       tokens that the output may have; only read with `output_budget`
        """
        self._fresh = matcher  # stands at the grammar's start
        self._active: llguidance.LLMatcher | None = (
            matcher.deep_copy()
        )  # None: the output so far is no prefix of a match
        self._start = start
        self._output_budget = output_budget
        # tokens that certainly satisfy the grammar
        self._num_needed = output_budget.num_needed if output_budget is not None else 0
        self._tokens_left = budget
        # an end token is allowed in the reasoning only if the answer may be empty
        self._ending = () if matcher.is_accepting() else end_ids
        self._straddling = straddling
        num_before = start.num_left if start.place == "inside" else 0
        if output_budget is not None and budget < num_before + self._num_needed:
            raise GrammarError(f"it needs {num_before + self._num_needed} tokens, {budget} may come")

    def fork(self) -> "Matcher":
        """The same state, which goes on by itself."""
        forked = copy.copy(self)
        forked._active = self._active.deep_copy() if self._active is not None else None
        forked._start = self._start.fork()
        forked._output_budget = self._output_budget.fork() if self._output_budget is not None else None
        return forked

    @property
    def is_past_reasoning(self) -> bool:
        """Whether the reasoning has ended or can no longer begin."""
        return self._start.place == "after"

    @property
    def _forbidden(self) -> tuple[int, ...]:
        """Tokens banned inside the reasoning: the answer must begin with a token of its own."""
        ends = self._start.ends
        begun = ends.partial_lengths() if ends is not None else ()
        return sum((self._straddling.get(size, ()) for size in begun), self._ending)

    def fill(self, bits: NDArray[np.int32]) -> None:
        """Writes one row of a mask, [ceil(V / 32)]: bit 1 means allowed. Raises GrammarError."""
        place = self._start.place
        if place == "inside":
            bits.fill(-1)
            for token in self._forbidden:
                bits.view(np.uint32)[token // 32] &= ~(1 << token % 32) & 0xFFFFFFFF
            return
        if self._active is None:
            bits.fill(0)
        elif self._output_budget is not None and 0 < self._tokens_left == self._output_budget.num_needed:
            bits.fill(0)
            _allow(bits, self._output_budget.next_token)
        else:
            self._active.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            self._raise_on_error()
        if place == "before" and self._may_open:
            _allow(bits, self._start.next_token)

    def enforce_output_budget(self, token: int) -> int:
        """The sampled token, or its replacement where the answer could no longer be finished within the budget."""
        output_budget, start = self._output_budget, self._start
        if output_budget is None:
            return token
        if start.place == "inside":
            fits = start.num_left_after(token) + self._num_needed < self._tokens_left
            return token if fits and token not in self._forbidden else start.next_token
        if self._active is None:
            return start.next_token
        if start.place == "before" and self._may_open and token == start.next_token:
            return token
        return output_budget.enforce_output_budget(self._active, token, self._tokens_left)

    def consume(self, token: int) -> None:
        """Advances by a token. Raises GrammarError for one that was not allowed."""
        was = self._start.place
        self._start.consume(token, may_open=self._may_open)
        if was != "inside" and self._start.place != "inside":
            self._follow(token, may_open=self._start.place == "before")
        elif was == "before":  # the reasoning has begun: the grammar starts over behind it
            self._active = self._fresh.deep_copy()
            self._output_budget = self._output_budget.restarted() if self._output_budget is not None else None
        self._tokens_left -= 1

    @property
    def _may_open(self) -> bool:
        """Whether the budget leaves tokens for reasoning."""
        return self._output_budget is None or self._start.num_left + self._num_needed <= self._tokens_left

    def _follow(self, token: int, *, may_open: bool) -> None:
        matcher = self._active
        if matcher is None or (may_open and not matcher.validate_tokens([token])):
            if not may_open:
                raise GrammarError("the answer neither opens the thinking nor follows the grammar")
            self._active = None
            return
        if self._output_budget is not None and not self._output_budget.consume(matcher, token, self._tokens_left):
            if not may_open:
                raise GrammarError("it cannot be finished within its tokens any more")
            self._active = None
            return
        matcher.consume_token(token)
        self._raise_on_error()

    def _raise_on_error(self) -> None:
        if self._active is not None and self._active.is_error():
            raise _error(self._active)


def _overlaps(text: bytes, word: bytes) -> list[int]:
    """For which numbers of bytes of `text` already written `word` completes it with bytes to spare."""
    within = [0] if text in word[:-1] else []
    longer = (size for size in range(1, len(text)) if size + len(word) > len(text))
    return within + [size for size in longer if word.startswith(text[size:])]


def _allow(bits: NDArray[np.int32], token: int) -> None:
    bits.view(np.uint32)[token // 32] |= 1 << token % 32


def _error(matcher: llguidance.LLMatcher) -> GrammarError:
    """The error that stopped a matcher."""
    message = matcher.get_error()
    for pattern, words in REACHED:
        if found := re.search(pattern, message):
            return GrammarLimitReached(words.format(*found.groups()))
    if "NoExtension" in message:
        return GrammarError(DEAD_END)
    return GrammarError(_first_lines(message))


def _first_lines(message: str) -> str:
    """The message without llguidance's drawing of the place."""
    first, rest = message.strip().splitlines()[:2], message.strip().splitlines()[2:]
    return " ".join([*first, *(line for line in rest if line.startswith("error:"))])[:500]
