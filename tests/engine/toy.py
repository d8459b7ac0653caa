"""An executor that remembers tokens in slots and answers with a hash of what it can read back.

Its next token depends on every earlier token as found through the block table, so a wrong block, a lost write or a
stale prefix changes the answer. `recompute` gives the same answer without an engine.

A grammar here is a number: with so many tokens of output it cannot be followed any more.
"""

import random
import time
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from engine.cache.cache_layout import CacheGroup
from engine.engine import derived_seed
from engine.execution.executor import Executor
from engine.model.block_tables import BlockTables
from engine.scheduling.scheduler_output import ModelOutput, ScheduledSequence, SchedulerOutput
from engine.types import GenerateRequest, Grammar, PromptLogprob, SamplingParams, TokenSpan

VOCAB_SIZE = 50


class ToyExecutor(Executor):
    vocab_size = VOCAB_SIZE

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_model_len: int = 1000,
        step_s: float = 0.0,
        num_states: int = 0,
        cache_groups: tuple[CacheGroup, ...] = (CacheGroup(),),
    ) -> None:
        """The first of the cache groups keeps all tokens; what the others show is compared with it."""
        self.cache_groups = cache_groups
        self.num_states = num_states
        self.seen: set[int] = set()  # sequences that have been computed
        self.num_shared = 0  # sequences that went on with the state of another one
        self.states: list[list[int]] = [[-7]] * num_states  # the tokens that each state has seen
        self.step_s = step_s  # so that there is a middle of a stream
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_model_len = max_model_len
        self.slots: list[int | None] = [None] * (num_blocks * block_size)
        self.tables = BlockTables(block_size, self.cache_groups)
        self.seeds: dict[int, int] = {}
        self.grammar_ends: dict[int, int] = {}  # sequence -> the position at which its grammar fails
        self.num_computed = 0
        self.num_held = 0  # drafts that were right
        self.num_unknown = 0  # tokens that a plan did not know
        self.num_drafted_ahead = 0  # of these, the ones with drafts behind them
        self.last: dict[int, int] = {}
        self.begun: SchedulerOutput
        self.unread: SchedulerOutput | None = None  # the step that is being sampled
        self.widest = 0
        self.most_scored = 0
        self.fails_at: int | None = None
        self.closed = False

    def execute_model(self, scheduled: SchedulerOutput) -> ModelOutput:
        time.sleep(self.step_s)
        if self.fails_at == scheduled.step:
            raise RuntimeError("toy failure")
        self.tables.update(scheduled)
        for source, target in scheduled.copies:
            at, to = source * self.block_size, target * self.block_size
            self.slots[to : to + self.block_size] = self.slots[at : at + self.block_size]
        for source, target in scheduled.state_copies:
            self.states[target] = self.states[source]
        for seq_id in scheduled.finished_ids:
            self.seeds.pop(seq_id, None)
            self.grammar_ends.pop(seq_id, None)
        for start in scheduled.new_sequences:
            self.seeds[start.seq_id] = start.seed
            if start.grammar is not None:
                self.grammar_ends[start.seq_id] = len(start.prompt) + int(start.grammar.text)
        self.widest = max(self.widest, sum(len(piece.tokens) for piece in scheduled.sequences))
        tokens, scores, counts = [], [], []
        failed: list[str | None] = []
        for piece in scheduled.sequences:
            stop = piece.start + len(piece.tokens)
            where, *others = self.where(piece, stop)
            for slots in (where, *others):
                for at, token in zip(slots[piece.start :], piece.tokens, strict=True):
                    self.slots[at] = token
            self.num_computed += len(piece.tokens)
            read = [self.slots[at] for at in where]
            for group, slots in zip(self.cache_groups[1:], others, strict=True):
                first = group.first_seen(piece.start)
                assert [self.slots[at] for at in slots[first:]] == read[first:], "a group has freed what a token sees"
            if self.num_states:
                seen = self.states[piece.state] if piece.start else []
                self.num_shared += piece.start > 0 and piece.seq_id not in self.seen
                self.seen.add(piece.seq_id)
                self.states[piece.state] = [*seen, *piece.tokens]
                assert self.states[piece.state] == read, "the state has seen other tokens"
            if piece.scored:
                starts = range(piece.start + 1, stop + 1)
                scores.append(tuple(score(read[:at], one) for at, one in zip(starts, piece.scored, strict=False)))
            if piece.samples:
                counts.append(0)
                failed.append("toy grammar" if self.grammar_ends.get(piece.seq_id) == stop else None)
                drafts = piece.tokens[len(piece.tokens) - piece.num_draft_tokens :]
                for ahead, draft in enumerate((*drafts, None)):
                    known = read[: stop - len(drafts) + ahead]
                    tokens.append(next_token(known, self.seeds[piece.seq_id]))
                    counts[-1] += 1
                    if tokens[-1] != draft:
                        break
                self.num_held += counts[-1] - 1
        self.most_scored = max(self.most_scored, sum(len(piece.scored) for piece in scheduled.sequences))
        return ModelOutput(
            tuple(tokens), failed=tuple(failed) if any(failed) else (), scores=tuple(scores), counts=tuple(counts)
        )

    def where(self, piece: ScheduledSequence, stop: int) -> list[list[int]]:
        """The slots of a sequence's positions up to `stop`, in each cache group."""
        (row,) = self.tables.rows((piece,))
        return self.tables.slots(np.full(stop, row), np.arange(stop)).tolist()

    def launch_model(self, scheduled: SchedulerOutput) -> None:
        """Tokens that the plan does not know are those of the last step."""
        sequences = tuple(
            msgspec.structs.replace(
                piece, tokens=tuple(self.last[piece.seq_id] if token < 0 else token for token in piece.tokens)
            )
            for piece in scheduled.sequences
        )
        for piece in scheduled.sequences:
            self.num_unknown += -1 in piece.tokens
            self.num_drafted_ahead += piece.num_draft_tokens > 0 and -1 in piece.tokens
        assert self.unread is None or scheduled.step == self.unread.step + 1, "a step was left out"
        self.begun = msgspec.structs.replace(scheduled, sequences=sequences)

    def sample_tokens(self) -> "ToySampled":
        assert self.unread is None, "two steps are sampled at once"
        self.unread = self.begun
        result = self.execute_model(self.begun)
        tokens = iter(result.tokens)  # of a step with draft tokens no other one reads them
        self.last = {piece.seq_id: next(tokens) for piece in self.begun.sequences if piece.samples}
        if self.begun.has_drafts:
            self.last = {}
        return ToySampled(self, result)

    def close(self) -> None:
        self.closed = True


class ToyConnector:
    """A KV connector to blocks of one toy after the other. Now and then one is gone that was there a moment ago."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance
        self._saved: dict[bytes, list[Any]] = {}
        self.toy: ToyExecutor
        self.num_loaded = self.num_gone = 0

    def holds(self, name: bytes) -> bool:
        return name in self._saved

    def load(self, name: bytes, block: int) -> bool:
        if self._chance is not None and self._chance.random() < 0.2:
            del self._saved[name]
            self.num_gone += 1
            return False
        where, piece = self._where(block)
        where[piece] = self._saved[name]
        self.num_loaded += 1
        return True

    def save(self, name: bytes, block: int) -> None:
        where, piece = self._where(block)
        self._saved[name] = where[piece]
        assert None not in self._saved[name]

    def _where(self, block: int) -> tuple[list[Any], slice]:
        size = self.toy.block_size
        return self.toy.slots, slice(block * size, (block + 1) * size)


class ToyStateConnector(ToyConnector):
    """The same of states."""

    def _where(self, block: int) -> tuple[list[Any], slice]:
        return self.toy.states, slice(block, block + 1)


class ToySampled:
    def __init__(self, toy: ToyExecutor, result: ModelOutput) -> None:
        self._toy, self._result = toy, result

    def result(self) -> ModelOutput:
        self._toy.unread = None
        return self._result


def next_token(tokens: list[int | None], seed: int) -> int:
    """Depends on all tokens, but is often what always follows the last one, so that guesses can be right."""
    any_token, chance, *_ = blake2b(repr((tokens, seed)).encode(), digest_size=4).digest()
    return any_token % VOCAB_SIZE if chance < 100 else ((tokens[-1] or 0) * 7 + 4) % VOCAB_SIZE


def score(before: list[int | None], token: int) -> PromptLogprob:
    """What the toy thinks of a token after others."""
    return PromptLogprob(token, -float(next_token(before, token)), 1)


def recompute(request: GenerateRequest, index: int = 0) -> tuple[list[int], str]:
    """The answer of one choice, and why it ends, from the definition."""
    sampling = request.sampling
    tokens = list(request.prompt)
    output: list[int] = []
    while True:
        if request.grammar is not None and len(output) == int(request.grammar.text):
            return output, "grammar"
        output.append(next_token([*tokens, *output], derived_seed(sampling.seed, index)))
        if output[-1] in sampling.stop_token_ids and len(output) > sampling.min_tokens:
            return output, "stop"
        if len(output) == sampling.max_tokens:
            return output, "length"


def request(
    request_id: str,
    prompt: list[int],
    max_tokens: int = 8,
    n: int = 1,
    grammar_ends: int | None = None,
    **sampling: object,
) -> GenerateRequest:
    return GenerateRequest(
        request_id=request_id,
        model="toy",
        inputs=(TokenSpan(tuple(prompt)),),
        n=n,
        grammar=Grammar(str(grammar_ends)) if grammar_ends is not None else None,
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
    )
