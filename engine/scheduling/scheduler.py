"""The scheduler: continuous batching with chunked prefill and preemption. Decides what the next step computes.

There are no phases: each running sequence gets some of its uncomputed tokens, under one budget. Sequences are served in
the order (priority, virtual start, arrival), fair between tenants (engine/scheduling/fair_queueing.py). Every decode
(a sequence with one uncomputed token) has one token of the budget reserved; prefills get the rest in chunks, in order.
Where the first one takes all of it, up to half is kept for short ones among the next few, which are then done in one
step and do not wait for it. When blocks run out, the last sequence in that order is preempted and recomputed later, so
the first one always makes progress and nothing starves within a priority.
"""

import bisect
import itertools
import time

from configs.schema import SchedulerConfig
from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.fair_queueing import VirtualClock
from engine.scheduling.ngram_proposer import NgramProposer
from engine.scheduling.scheduler_output import ModelOutput, NewSequence, ScheduledSequence, SchedulerOutput
from engine.scheduling.sequence import PENDING, Sequence
from engine.scheduling.waiting_queue import WaitingQueue

__all__ = ["Scheduler"]

FEW = 8  # prefills in order among which short ones need not wait
SCORED_ROWS = 64  # most rows of logits in one step for prompt logprobs


class Scheduler:
    """Owns the waiting and the running sequences."""

    def __init__(self, config: SchedulerConfig, blocks: BlockAllocator, max_model_len: int) -> None:
        self.config = config
        self.max_model_len = max_model_len
        self.blocks = blocks
        self.queue = WaitingQueue(self.blocks)
        self.running: list[Sequence] = []  # in scheduling order; these hold blocks
        self.num_preemptions = 0
        self.num_prompt_tokens = 0  # of the sequences that have begun
        self.num_cached_tokens = 0  # of these, found in the prefix cache
        self.clock = VirtualClock()
        self._new_sequences: list[NewSequence] = []
        self._finished_ids: list[int] = []
        self._copies: list[tuple[int, int]] = []
        self._step = 0

    @property
    def waiting(self) -> list[Sequence]:
        return self.queue.sequences

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens to compute before every sequence has its next one, if no cached prefix is evicted before."""
        return self.queue.num_missing_tokens + sum(seq.num_uncomputed - 1 for seq in self.running)

    # -- adding and removing sequences

    def add(self, seq: Sequence) -> None:
        self.queue.add(seq)

    def remove(self, seq: Sequence) -> None:
        """Removes a sequence, finished or not, and frees its blocks."""
        if seq in self.running:
            self.running.remove(seq)
            self._finished_ids.append(seq.seq_id)
            self.blocks.free(seq)
        else:
            self.queue.remove(seq)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Forks a running sequence: the child has all tokens of the parent but the last.

        Full blocks are shared, partly filled ones are copied before the next step. Where there are no blocks for the
        copies, the child waits and computes its tokens again.
        """
        has_part = parent.num_computed % self.blocks.block_size > 0
        is_full = len(self.running) >= self.config.max_num_seqs
        num_copied = len(self.blocks.groups) if has_part else 0
        if is_full or not parent.blocks or self.blocks.pool.num_free < num_copied:
            self.add(child)
            return
        self._copies += self.blocks.fork(parent, child)
        bisect.insort(self.running, child, key=_order)
        self._new_sequences.append(self._new_sequence(child))

    def rewind(self, seq: Sequence, token: int) -> None:
        """Rewinds a paused sequence by one token and resumes it with `token` in its place."""
        seq.tokens[-1] = token
        seq.is_paused = False
        if seq.blocks:
            self._new_sequences.append(self._new_sequence(seq))

    # -- one step

    def schedule(self) -> SchedulerOutput:
        """Decides the next step and allocates its blocks. Nothing is computed yet."""
        self.blocks.save_states()
        sequences = self._assign()
        while not sequences and self.running and not all(seq.is_paused for seq in self.waiting):
            if any(seq.is_pending or self.blocks.has_unseen(seq) for seq in self.running):
                break  # they are schedulable again once the step under way is over
            self._preempt(self.running[-1])  # all running ones are paused, for waiting beams that need blocks
            sequences = self._assign()
        if not sequences:
            return SchedulerOutput(self._step, ())
        if self.config.num_speculative_tokens:
            sequences = self._add_draft_tokens(sequences)
        by_id = {seq.seq_id: seq for seq in self.running}
        for piece in sequences:
            by_id[piece.seq_id].num_sent_blocks = by_id[piece.seq_id].num_blocks
        scheduled = SchedulerOutput(
            self._step,
            tuple(sequences),
            tuple(self._new_sequences),
            copies=tuple(self._copies),
            finished_ids=tuple(self._finished_ids),
            state_copies=self.blocks.states.take_copies() if self.blocks.states is not None else (),
        )
        self._step += 1
        self._new_sequences, self._finished_ids, self._copies = [], [], []
        return scheduled

    def _assign(self) -> list[ScheduledSequence]:
        sequences: list[ScheduledSequence] = []
        self._make_room()
        budget = self.config.max_num_batched_tokens
        rows = SCORED_ROWS
        ready = [seq for seq in self.running if not seq.is_paused and not self._may_end(seq)]
        reserved = min(budget, sum(1 for seq in ready if seq.num_uncomputed == 1))
        short = self._short_prefills(ready, budget - reserved)
        kept = sum(short.values())  # of the budget, for those of them that are still to come
        for seq in ready:
            if not seq.blocks:
                continue  # preempted for one before it
            self.blocks.keep_state(seq)
            is_decode = seq.num_uncomputed == 1 and reserved > 0
            kept -= short.get(seq.seq_id, 0)
            count = 1 if is_decode else min(seq.num_uncomputed, budget - reserved - kept)
            count = self._grow(seq, self._cut(seq, min(count, rows) if seq.lacks_scores else count))
            reserved -= is_decode
            if count > 0:
                budget -= count
                rows -= count if seq.lacks_scores else 0
                sequences.append(self._slice(seq, count))
        for seq in list(self.waiting):
            if budget == 0 or len(self.running) >= self.config.max_num_seqs:
                break
            kept -= short.get(seq.seq_id, 0)
            if seq.is_paused or seq.is_pending or budget == kept:
                continue
            if self.blocks.is_being_filled(seq):
                continue  # its prefix can be shared in a step or two
            count = self._admit(seq, min(budget - kept, rows) if seq.lacks_scores else budget - kept)
            if count == 0:
                break  # no overtaking: the first one gets the next free blocks
            budget -= count
            rows -= count if seq.lacks_scores else 0
            sequences.append(self._slice(seq, count))
        return sequences

    def _short_prefills(self, ready: list[Sequence], budget: int) -> dict[int, int]:
        """Prefills that need not wait for a longer one before them: ids, and the tokens that are kept for each."""
        prefills = [(seq, seq.num_uncomputed) for seq in ready if seq.num_uncomputed > 1]
        waiting = (seq for seq in self.waiting if not seq.is_paused and not seq.is_pending)
        prefills += [(seq, seq.num_missing) for seq in itertools.islice(waiting, max(0, FEW - len(prefills)))]
        if len(prefills) < 2 or prefills[0][1] <= budget:
            return {}
        left, short = budget // 2, {}
        for seq, num_tokens in prefills[1:FEW]:
            if num_tokens <= left and not seq.lacks_scores and (seq.blocks or self._is_ready(seq)):
                short[seq.seq_id] = num_tokens
                left -= num_tokens
        return short

    def _is_ready(self, seq: Sequence) -> bool:
        """Whether a waiting sequence counts on no prefix that another one is still to compute."""
        num_cached = self.blocks.match_prefix(seq).num_blocks * self.blocks.block_size
        return seq.num_missing >= len(seq.tokens) - num_cached and not self.blocks.is_being_filled(seq)

    def _add_draft_tokens(self, sequences: list[ScheduledSequence]) -> list[ScheduledSequence]:
        """Adds draft tokens to decodes, within the remaining budget and free blocks."""
        budget = self.config.max_num_batched_tokens - sum(len(piece.tokens) for piece in sequences)
        by_id = {seq.seq_id: seq for seq in self.running}
        out = []
        for piece in sequences:
            seq = by_id[piece.seq_id]
            if budget > 0 and piece.samples and len(piece.tokens) == 1 and seq.request.beam is None:
                drafts = self._propose(seq, budget)
                if drafts:
                    self.blocks.allocate(seq, len(seq.tokens) + len(drafts))
                    self.blocks.copy_state(seq)
                    budget -= len(drafts)
                    piece = self._slice(seq, 1, drafts)
            out.append(piece)
        return out

    def _propose(self, seq: Sequence, budget: int) -> tuple[int, ...]:
        """Draft tokens behind the last one; if that is pending, behind what is proposed for it."""
        room = self.blocks.num_computable_tokens(seq) - seq.num_uncomputed
        left = min(seq.prompt_len + seq.request.sampling.max_tokens, self.max_model_len) - len(seq.tokens)
        most = self._cut(seq, 1 + min(self.config.num_speculative_tokens, budget, room, left - 1)) - 1
        if most <= 0 or not self.blocks.can_copy_state:
            return ()
        if seq.proposer is None:
            seq.proposer = NgramProposer(self.config.prompt_lookup_min)
        num_pending = int(seq.is_pending)
        return seq.proposer.propose(seq.tokens, len(seq.tokens) - num_pending, num_pending + most)[num_pending:]

    def update_after_schedule(self, scheduled: SchedulerOutput) -> None:
        """Counts the tokens of a launched step as computed. Its samples are PENDING until `update_from_output`.

        One step may be scheduled in between, without the sequences that may end with their pending token, and not if
        there are draft tokens: where the next step begins depends on how many of them are right.
        """
        by_id = {seq.seq_id: seq for seq in self.running}
        for piece in scheduled.sequences:
            seq = by_id.get(piece.seq_id)
            if seq is not None:  # else removed meanwhile
                seq.num_computed += len(piece.tokens) - piece.num_draft_tokens
                if piece.samples:
                    seq.tokens.append(PENDING)

    def update_from_output(self, scheduled: SchedulerOutput, result: ModelOutput) -> list[Sequence | None]:
        """Appends a step's sampled tokens. Returns the sequences that got some, in its order; None: removed."""
        by_id = {seq.seq_id: seq for seq in (*self.waiting, *self.running)}
        sampled = []
        tokens, scores, counts = iter(result.tokens), iter(result.scores), iter(result.counts)
        for piece in scheduled.sequences:
            seq = by_id.get(piece.seq_id)
            own_scores = next(scores) if piece.scored else ()
            got = list(itertools.islice(tokens, next(counts, 1))) if piece.samples else []
            if piece.samples:
                sampled.append(seq)
            if seq is None:
                continue
            if got:
                seq.tokens[-1:] = got
                seq.num_computed += len(got) - 1  # draft tokens that were accepted
                if piece.num_draft_tokens and not self.blocks.settle_state(seq, len(got) > piece.num_draft_tokens):
                    seq.num_computed = piece.start
            if own_scores:
                seq.scores[piece.start :] = own_scores
            if seq.blocks:  # else preempted meanwhile
                self.blocks.cache_full_blocks(seq)
                self.blocks.free_unseen(seq)
        return sampled

    def _may_end(self, seq: Sequence) -> bool:
        """Whether a sequence's pending token may end it, or its next step depends on it."""
        most = min(seq.prompt_len + seq.request.sampling.max_tokens, self.max_model_len)
        return seq.is_pending and (len(seq.tokens) >= most or seq.request.beam is not None)

    def _slice(self, seq: Sequence, count: int, drafts: tuple[int, ...] = ()) -> ScheduledSequence:
        stop, sent = seq.num_computed + count, seq.num_sent_blocks
        if seq.trace is not None and seq.num_uncomputed > 1:
            seq.trace.add_chunk(count)
        return ScheduledSequence(
            seq_id=seq.seq_id,
            start=seq.num_computed,
            tokens=(*seq.tokens[seq.num_computed : stop], *drafts),
            blocks=tuple(tuple(blocks[sent:]) for blocks in seq.blocks) if seq.num_blocks > sent else (),
            samples=stop == len(seq.tokens),
            num_draft_tokens=len(drafts),
            scored=tuple(seq.tokens[seq.num_computed + 1 : min(stop, seq.num_scored) + 1]) if seq.lacks_scores else (),
            state=seq.state,
            first_block=sent,
        )

    def _cut(self, seq: Sequence, count: int) -> int:
        """No more tokens than up to where a snapshot of a recurrent state is due."""
        most = self.blocks.num_until_snapshot(seq)
        return count if most is None else min(count, most)

    def _grow(self, seq: Sequence, count: int) -> int:
        """Allocates blocks for `count` more tokens of a running sequence, and preempts those after it if needed.

        Returns the number of tokens that have blocks.
        """
        stop = seq.num_computed + count
        while self.blocks.num_missing(seq, stop) > self.blocks.pool.num_free and self.running[-1] is not seq:
            self._preempt(self.running[-1])
        self.blocks.allocate(seq, stop)
        return min(count, seq.num_blocks * self.blocks.block_size - seq.num_computed)

    def _admit(self, seq: Sequence, budget: int) -> int:
        """Admits a waiting sequence if there are blocks for its next chunk. Returns the chunk's tokens, or 0."""
        if budget == 0:
            return 0
        hit = self.blocks.match_prefix(seq)
        stop = min(len(seq.tokens), hit.num_blocks * self.blocks.block_size + budget)
        if self.running and self.blocks.num_needed(hit, stop) > self.blocks.pool.num_free:
            return 0  # alone it begins with what there is: groups with windows free blocks as it goes on
        self.queue.remove(seq)
        self.clock.served(seq.virtual_start)
        bisect.insort(self.running, seq, key=_order)
        # blocks that are still to be copied must not be overwritten
        num_restored = self.blocks.start(seq, hit, may_restore=not self._copies)
        if seq.cached_tokens is None:
            seq.cached_tokens = min(seq.num_computed, seq.prompt_len)
            seq.restored_tokens = min(num_restored * self.blocks.block_size, seq.cached_tokens)
            seq.queued_s = time.monotonic() - seq.accepted_s
            self.num_prompt_tokens += seq.prompt_len
            self.num_cached_tokens += seq.cached_tokens
        count = min(len(seq.tokens) - seq.num_computed, budget, self.blocks.num_computable_tokens(seq))
        count = self._cut(seq, count)
        self.blocks.allocate(seq, seq.num_computed + count)
        self._new_sequences.append(self._new_sequence(seq))
        return count

    def _new_sequence(self, seq: Sequence) -> NewSequence:
        request = seq.request
        return NewSequence(seq.seq_id, request.sampling, seq.seed, request.prompt, seq.output, request.grammar)

    def _make_room(self) -> None:
        """Preempts running sequences for a waiting one of higher priority."""
        if not self.waiting:
            return
        first = self.waiting[0]
        while self.running and self.running[-1].order[0] > first.order[0]:
            hit = self.blocks.match_prefix(first)
            stop = min(len(first.tokens), hit.num_blocks * self.blocks.block_size + self.config.max_num_batched_tokens)
            fits = self.blocks.num_needed(hit, stop) <= self.blocks.pool.num_free
            if fits and len(self.running) < self.config.max_num_seqs:
                return
            self._preempt(self.running[-1])

    def _preempt(self, seq: Sequence) -> None:
        """Preempts a sequence: frees its blocks, to be recomputed."""
        self.num_preemptions += 1
        if seq.trace is not None:
            seq.trace.add_preemption()
        self.running.remove(seq)
        self._new_sequences = [start for start in self._new_sequences if start.seq_id != seq.seq_id]
        self._finished_ids.append(seq.seq_id)
        self.blocks.free(seq)
        self.add(seq)

    # -- for tests

    def check(self) -> None:
        """Asserts every redundant field against its recomputation."""
        self.blocks.check(self.running)
        self.queue.check()
        assert self.running == sorted(self.running, key=_order)
        assert all(seq.num_computed < len(seq.tokens) for seq in self.running)
        assert len(self.running) <= self.config.max_num_seqs


def _order(seq: Sequence) -> tuple[int, int, int]:
    return seq.order
