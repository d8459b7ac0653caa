"""Sampling state of one sequence (penalties, bans, grammar mask, reasoning budget): a function of its tokens so far."""

import copy
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from engine.scheduling.scheduler_output import NewSequence
from engine.structured_output.grammar import GrammarError, Matcher, TokenTable
from engine.structured_output.reasoning_budget import ReasoningTracker
from engine.types import SamplingParams

__all__ = ["SamplingState"]


class SamplingState:
    """Token ids outside the vocabulary are dropped at construction."""

    def __init__(self, start: NewSequence, vocab_size: int, table: TokenTable | None) -> None:
        params = start.sampling
        self.is_fitted = start.grammar is not None and start.grammar.fit is not None
        self.failure: str | None = None  # why its grammar failed
        self.matcher = self._match(start, table)

        def known(tokens: Iterable[int]) -> tuple[int, ...]:
            return tuple(dict.fromkeys(token for token in tokens if 0 <= token < vocab_size))

        self.params: SamplingParams = params
        self.seed = start.seed
        self.num_tokens = len(start.prompt) + len(start.output)
        self.allowed = None if params.allowed_token_ids is None else known(params.allowed_token_ids)
        self.bias = {token: value for token, value in params.logit_bias if 0 <= token < vocab_size}
        self.penalized = params.presence_penalty != 0 or params.frequency_penalty != 0 or params.repetition_penalty != 1
        # the prompt's tokens, with a count of 0, are only there for the repetition penalty
        self.seen = _Seen(start.prompt if params.repetition_penalty != 1 else ())
        self.named = known(params.logprob_token_ids)
        token_bytes = table.tokens if table is not None else ()
        self.thinking = (
            ReasoningTracker(params.thinking, start.output, token_bytes) if params.thinking is not None else None
        )
        self._num_output = len(start.output)
        self._stop_ids = known(params.stop_token_ids)
        self._bad_tokens = known(word[0] for word in params.bad_words if len(word) == 1)
        self._bad_endings = [word for word in params.bad_words if len(word) > 1 and 0 <= word[-1] < vocab_size]
        longest = max((len(word) for word in self._bad_endings), default=1)
        self._tail_len = longest - 1
        self._tail: tuple[int, ...] = ()  # last output tokens, as many as the longest bad word has before its last one
        for token in start.output:
            self._count(token)

    def after(self, token: int) -> "SamplingState":
        """The state if `token` came next. One that the grammar forbids leaves a state that has failed."""
        ahead = copy.copy(self)
        ahead.matcher = self.matcher.fork() if self.matcher is not None else None
        ahead.thinking = self.thinking.fork() if self.thinking is not None else None
        ahead.seen = self.seen.fork() if self.penalized else self.seen
        ahead.append(token)
        return ahead

    def fill(self, row: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        """Writes the grammar mask of the next token, if there is a grammar."""
        if self.matcher is not None and self.failure is None:
            try:
                self.matcher.fill(row)
            except GrammarError as error:
                self.failure = str(error)

    @property
    def forced(self) -> int | None:
        """The token that the reasoning budget forces. A marker within a grammar's text begins no reasoning."""
        if self.thinking is None or (self.matcher is not None and self.matcher.is_past_reasoning):
            return None
        return self.thinking.forced

    def enforce_output_budget(self, token: int) -> int:
        """The sampled token, or its replacement by the output budget."""
        return token if self.matcher is None or self.failure is not None else self.matcher.enforce_output_budget(token)

    def append(self, token: int) -> None:
        if self.matcher is not None and self.failure is None:
            try:
                self.matcher.consume(token)
            except GrammarError as error:
                self.failure = str(error)
        if self.thinking is not None:
            self.thinking.consume(token)
        self.num_tokens += 1
        self._num_output += 1
        self._count(token)

    def forbidden(self) -> tuple[int, ...]:
        """Tokens that must not come next: bad token_bytes, and stop tokens before min_tokens."""
        stops = self._stop_ids if self._num_output < self.params.min_tokens else ()
        endings = [word[-1] for word in self._bad_endings if self._tail[-(len(word) - 1) :] == word[:-1]]
        if not endings:
            return self._bad_tokens + stops
        return (*self._bad_tokens, *stops, *endings)

    def _match(self, start: NewSequence, table: TokenTable | None) -> Matcher | None:
        if start.grammar is None:
            return None
        try:
            if table is None:
                raise GrammarError("this engine was loaded without a vocabulary")
            return table.matcher(start.grammar, start.output)
        except GrammarError as error:
            self.failure = str(error)
            return None

    def _count(self, token: int) -> None:
        if self.penalized:
            self.seen.count(token)
        if self._tail_len:
            self._tail = (*self._tail, token)[-self._tail_len :]


class _Seen:
    """Token counts for penalties: the prompt's with 0, the output's. Arrays, because every step reads all of them."""

    def __init__(self, prompt: Iterable[int]) -> None:
        self._at = {token: i for i, token in enumerate(dict.fromkeys(prompt))}
        self._tokens = np.fromiter(self._at, np.int64, len(self._at))
        self._counts = np.zeros(len(self._at), np.float32)

    def fork(self) -> "_Seen":
        forked = copy.copy(self)
        forked._at = self._at.copy()
        forked._tokens, forked._counts = self._tokens.copy(), self._counts.copy()
        return forked

    def count(self, token: int) -> None:
        at = self._at.setdefault(token, len(self._at))
        if at == len(self._tokens):
            room = max(16, at)
            self._tokens = np.concatenate((self._tokens, np.zeros(room, np.int64)))
            self._counts = np.concatenate((self._counts, np.zeros(room, np.float32)))
        self._tokens[at] = token
        self._counts[at] += 1

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Token ids, each once, and their counts."""
        return self._tokens[: len(self._at)], self._counts[: len(self._at)]
