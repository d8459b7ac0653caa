"""A sequence: one choice of one request, with its tokens and blocks. The only mutable value in the engine."""

import time

from engine.cache.prefix_cache import BlockHashes
from engine.scheduling.ngram_proposer import Proposer
from engine.scheduling.sequence_trace import SequenceTrace
from engine.types import GenerateRequest, PromptLogprob

__all__ = ["FREED", "PENDING", "Sequence"]

PENDING = -1  # stands for a token that is being sampled
FREED = -1  # stands for a block that its cache group does not keep


class Sequence:
    """Known tokens and computed tokens; a step computes some of the difference.

    known 10, computed 6, block size 4:
      [0 1 2 3][4 5|6 7][8 9 . .]      blocks cover the computed tokens and those of the current step
    """

    __slots__ = (
        "accepted_s",
        "blocks",
        "cached_tokens",
        "block_hashes",
        "index",
        "is_paused",
        "num_computed",
        "num_missing",
        "num_cached_blocks",
        "num_scored",
        "num_sent_blocks",
        "order",
        "prompt_len",
        "proposer",
        "queued_s",
        "request",
        "restored_tokens",
        "root_hash",
        "scores",
        "seed",
        "seq_id",
        "state",
        "state_before_drafts",
        "tokens",
        "trace",
    )

    def __init__(
        self,
        seq_id: int,
        request: GenerateRequest,
        index: int,
        seed: int,
        hashes: BlockHashes,
        virtual_start: int = 0,
    ) -> None:
        resumed = request.resume[index] if request.resume else ()
        assert resumed is not None
        self.seq_id = seq_id
        self.accepted_s = time.monotonic()
        self.request = request
        self.index = index
        self.seed = seed
        self.root_hash = hashes.root  # of the empty prefix
        self.block_hashes = list(hashes.full_blocks)  # of the first full blocks; grows as blocks fill
        self.tokens: list[int] = [*request.prompt, *resumed]
        self.prompt_len = len(request.prompt)
        self.num_computed = 0
        self.num_missing = 0  # while it waits: tokens that no cached prefix saves, as far as is known
        self.is_paused = False  # waits for the other beams of its search
        self.num_cached_blocks = 0  # full blocks that cache_full_blocks has seen
        self.blocks: list[list[int]] = []  # of each cache group, all of one length; []: it does not run
        self.num_sent_blocks = 0  # that workers know
        self.state = -1  # slot of its recurrent state; -1: it has none
        self.state_before_drafts = -1  # slot of a copy, while a step with draft tokens runs
        self.cached_tokens: int | None = None  # prompt tokens found in the prefix cache; None until it first ran
        self.restored_tokens = 0  # of these, the ones loaded from the KV connector
        self.queued_s = 0.0  # until it first ran
        # prompt tokens with logprobs: all but the first; none after migration, they have been sent
        wants_scores = request.sampling.num_prompt_logprobs is not None and index == 0 and not resumed
        self.num_scored = self.prompt_len - 1 if wants_scores else 0
        self.scores: list[PromptLogprob] = []
        self.proposer: Proposer | None = None  # made with the first draft
        self.trace = SequenceTrace(self.accepted_s) if request.traceparent else None
        # scheduling order: virtual starts are of engine/scheduling/fair_queueing.py; ids rise with arrival
        self.order = (request.priority, virtual_start, seq_id)

    @property
    def num_blocks(self) -> int:
        """In each cache group, freed ones included."""
        return len(self.blocks[0]) if self.blocks else 0

    @property
    def virtual_start(self) -> int:
        return self.order[1]

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def is_pending(self) -> bool:
        """Whether its last token is being sampled."""
        return self.tokens[-1] == PENDING

    @property
    def lacks_scores(self) -> bool:
        return len(self.scores) < self.num_scored

    @property
    def output(self) -> tuple[int, ...]:
        return tuple(self.tokens[self.prompt_len :])
