"""Scheduler output and model output: what a step computes (ints, for every rank), and its results."""

import msgspec

from engine.types import Grammar, PromptLogprob, SamplingParams, TokenLogprob

__all__ = ["ScheduledSequence", "NewSequence", "SchedulerOutput", "ModelOutput"]


class NewSequence(msgspec.Struct, frozen=True, array_like=True):
    """The sampling state of a sequence that samples for the first time, or again after preemption."""

    seq_id: int
    sampling: SamplingParams
    seed: int  # of this choice
    prompt: tuple[int, ...]
    output: tuple[int, ...]  # tokens produced before this step
    grammar: Grammar | None = None


class ScheduledSequence(msgspec.Struct, frozen=True, array_like=True):
    """A sequence's tokens of one step.

    known 10, computed 6, budget 3, block size 4:
      [0 1 2 3][4 5|6 7][8|9 . .]
       computed     this step  ^ later
    """

    seq_id: int
    start: int  # first position computed this step
    # at positions [start, start + len(tokens)); the last one before draft tokens may be -1: the token sampled in the
    # step before
    tokens: tuple[int, ...]
    # new blocks of each cache group, in order, from number `first_block` of the sequence on; the ones before are known
    # from earlier steps, and -1 stands for a block that the group does not keep
    blocks: tuple[tuple[int, ...], ...]
    samples: bool  # True if this step reaches the last known token
    scored: tuple[int, ...] = ()  # the tokens after the first positions, if they have prompt logprobs
    # of `tokens`, draft tokens at the end; the rows before and after each one are sampled from
    num_draft_tokens: int = 0
    state: int = -1  # slot of the sequence's recurrent state, which begins at 0 where start is 0; -1: it has none
    first_block: int = 0


class SchedulerOutput(msgspec.Struct, frozen=True, array_like=True, tag=True):
    step: int
    sequences: tuple[ScheduledSequence, ...]
    new_sequences: tuple[NewSequence, ...] = ()  # sampling states to make before this step, after `finished_ids`
    finished_ids: tuple[int, ...] = ()  # sequences whose sampling state and blocks are dropped first
    copies: tuple[tuple[int, int], ...] = ()  # blocks (from, to) to copy before this step, one after the other
    state_copies: tuple[tuple[int, int], ...] = ()  # the same of states

    @property
    def num_tokens(self) -> int:
        return sum(len(piece.tokens) for piece in self.sequences)

    @property
    def has_drafts(self) -> bool:
        return any(piece.num_draft_tokens for piece in self.sequences)


class ModelOutput(msgspec.Struct, frozen=True, array_like=True):
    """The tokens of the sequences that sampled, in the step's order: of one with draft tokens the accepted ones and one
    more.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...] = ()  # one entry per token
    failed: tuple[str | None, ...] = ()  # per sampling sequence, why its grammar failed; its token is undefined then
    scores: tuple[tuple[PromptLogprob, ...], ...] = ()  # one entry per sequence with `scored`, in the order of the step
    counts: tuple[int, ...] = ()  # tokens of each sampling sequence; (): one each
    vectors: tuple[tuple[float, ...], ...] = ()  # of sequences that embed or score, in the step's order
