"""Scheduler output and model output: what a step computes (ints, for every rank), and what came out."""

import msgspec

from engine.types import Grammar, PromptLogprob, SamplingParams, TokenLogprob

__all__ = ["ScheduledSequence", "NewSequence", "SchedulerOutput", "ModelOutput"]


class NewSequence(msgspec.Struct, frozen=True, array_like=True):
    """A sequence that samples for the first time, or again after it was preempted."""

    seq_id: int
    sampling: SamplingParams
    seed: int  # of this choice
    prompt: tuple[int, ...]
    output: tuple[int, ...]  # tokens produced before this step
    grammar: Grammar | None = None


class ScheduledSequence(msgspec.Struct, frozen=True, array_like=True):
    """A sequence's part of one step.

    known 10, computed 6, budget 3, block size 4:
      [0 1 2 3][4 5|6 7][8|9 . .]
       computed     this step  ^ waits
    """

    seq_id: int
    start: int  # first position computed this step
    # at positions [start, start + len(tokens)); the last may be -1: what the sequence samples in the step before
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]  # every block of the sequence, in order
    samples: bool  # True if this step reaches the last known token
    scored: tuple[int, ...] = ()  # the prompt's tokens after the first positions, where their logprobs are wanted
    num_draft_tokens: int = (
        0  # of `tokens`, draft tokens at the end; the rows before and after each one are sampled from
    )


class SchedulerOutput(msgspec.Struct, frozen=True, array_like=True, tag=True):
    step: int
    sequences: tuple[ScheduledSequence, ...]
    new_sequences: tuple[NewSequence, ...] = ()  # sampling state to make before this step, after `finished_ids`
    finished_ids: tuple[int, ...] = ()  # sequences whose sampling state goes before this step, first of all
    copies: tuple[tuple[int, int], ...] = ()  # blocks to copy before this step, from and to, one after the other


class ModelOutput(msgspec.Struct, frozen=True, array_like=True):
    """What the sampling sequences got, in the order of the step. One with draft tokens gets those that were accepted,
    and one more.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...] = ()  # one entry per token
    failed: tuple[str | None, ...] = ()  # per sampling sequence, why it cannot go on; its token means nothing then
    scores: tuple[tuple[PromptLogprob, ...], ...] = ()  # one entry per sequence with `scored`, in the order of the step
    counts: tuple[int, ...] = ()  # tokens of each sampling sequence; (): one each
    vectors: tuple[tuple[float, ...], ...] = ()  # of slices that embed or score, in the order of the step
