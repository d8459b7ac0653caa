"""Decides what the next step computes. Knows no tensor.

There are no phases: each running sequence gets some of its uncomputed tokens, under one budget. Sequences are served
in the order (priority, arrival). Every sequence that lacks a single token (a decode) has one token of the budget set
aside; longer ones share what is left in chunks. When blocks run out, the last sequence in that order loses its own
and computes them again later, so the first one always gets on and nothing starves within a priority.
"""

import bisect
import itertools
from typing import Protocol

from configs.schema import SchedulerConfig
from engine.blocks import BlockPool
from engine.drafts import Drafts
from engine.plan import SeqSlice, SeqStart, StepPlan, StepResult
from engine.prefix_cache import PrefixCache, chain_hash
from engine.sequence import PENDING, Sequence

__all__ = ["BlockKeeper", "Scheduler"]

SCORED_ROWS = 64  # rows of logits in one step, at most, for the prompts whose logprobs are wanted


class BlockKeeper(Protocol):
    """Where named blocks are kept besides the cache: engine/node_cache.py."""

    def holds(self, name: bytes) -> bool: ...

    def load(self, name: bytes, block: int) -> bool:
        """Fills a block, before the next step. False: it was not there any more."""
        ...

    def save(self, name: bytes, block: int) -> None: ...


class Scheduler:
    """Owns the sequences that wait or run, and their blocks."""

    def __init__(
        self,
        config: SchedulerConfig,
        num_blocks: int,
        block_size: int,
        prefix_sharing: bool,
        cache_key: bytes,
        max_context_len: int,
        keeper: BlockKeeper | None = None,
    ) -> None:
        self.config = config
        self._keeper = keeper if prefix_sharing else None
        self.max_context_len = max_context_len
        self.block_size = block_size
        self.prefix_sharing = prefix_sharing
        self.cache_key = cache_key
        self.pool = BlockPool(num_blocks)
        self.cache = PrefixCache()
        self.waiting: list[Sequence] = []  # sorted by order
        self.running: list[Sequence] = []  # sorted by order; these hold blocks
        self.num_waiting_tokens = 0  # all that they lack
        self._num_missing_tokens = 0  # of these, what no prefix will save; see _promise
        self._promised: dict[bytes, int] = {}  # name of a prompt block -> the waiting sequence that will fill it
        self._filling: dict[bytes, int] = {}  # name of a prompt block not published yet -> seq_id that will fill it
        self._starts: list[SeqStart] = []
        self._ends: list[int] = []
        self._copies: list[tuple[int, int]] = []
        self._step = 0
        self._changes: dict[bytes, bool] = {}  # name -> whether it is published, since changes were last taken

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens to compute before every sequence has its next one; a cached prefix may go before it is used."""
        return self._num_missing_tokens + sum(seq.num_uncomputed - 1 for seq in self.running)

    # -- sequences come and go

    def add(self, seq: Sequence) -> None:
        bisect.insort(self.waiting, seq, key=_order)
        self.num_waiting_tokens += seq.num_uncomputed
        self._promise(seq)

    def remove(self, seq: Sequence) -> None:
        """Forgets a sequence, finished or not, and frees its blocks."""
        if seq in self.running:
            self.running.remove(seq)
            self._ends.append(seq.seq_id)
            self._free(seq)
        else:
            self._leave_queue(seq)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets a new sequence go on from where a running one is; all but its last token are the parent's.

        Full blocks are shared, the partly filled one is copied before the next step. Where there is no block for the
        copy, the child waits and computes its tokens again.
        """
        num_full = parent.num_computed // self.block_size
        has_part = parent.num_computed % self.block_size > 0
        is_full = len(self.running) >= self.config.max_sequences
        if is_full or not parent.blocks or (has_part and self.pool.num_idle == 0):
            self.add(child)
            return
        child.blocks = parent.blocks[:num_full]
        for block in child.blocks:
            self.pool.share(block)
        if has_part:
            copy = self._take()
            self._copies.append((parent.blocks[num_full], copy))
            child.blocks.append(copy)
        child.num_computed = parent.num_computed
        child.num_published = parent.num_published
        bisect.insort(self.running, child, key=_order)
        self._starts.append(self._start(child))

    def retell(self, seq: Sequence, token: int) -> None:
        """A held sequence goes on, with `token` in the place of the one that was sampled last."""
        seq.tokens[-1] = token
        seq.is_held = False
        if seq.blocks:
            self._starts.append(self._start(seq))

    # -- one step

    def schedule(self) -> StepPlan:
        """What the next step computes. Blocks are assigned; nothing is computed yet."""
        slices = self._assign()
        while not slices and self.running and not all(seq.is_held for seq in self.waiting):
            if any(seq.is_pending for seq in self.running):
                break  # there will be work when they have their tokens
            self._preempt(self.running[-1])  # all that run are held: they must not keep off those they wait for
            slices = self._assign()
        if not slices:
            return StepPlan(self._step, ())
        if self.config.max_draft_tokens:
            slices = self._guess(slices)
        plan = StepPlan(
            self._step, tuple(slices), tuple(self._starts), copies=tuple(self._copies), ends=tuple(self._ends)
        )
        self._step += 1
        self._starts, self._ends, self._copies = [], [], []
        return plan

    def _assign(self) -> list[SeqSlice]:
        slices: list[SeqSlice] = []
        self._make_room()
        budget = self.config.max_step_tokens
        rows = SCORED_ROWS
        ready = [seq for seq in self.running if not seq.is_held and not self._may_end(seq)]
        reserved = min(budget, sum(1 for seq in ready if seq.num_uncomputed == 1))
        for seq in ready:
            if not seq.blocks:
                continue  # lost them to one before it
            is_decode = seq.num_uncomputed == 1 and reserved > 0
            count = 1 if is_decode else min(seq.num_uncomputed, budget - reserved)
            count = self._grow(seq, min(count, rows) if seq.lacks_scores else count)
            reserved -= is_decode
            if count > 0:
                budget -= count
                rows -= count if seq.lacks_scores else 0
                slices.append(self._slice(seq, count))
        for seq in list(self.waiting):
            if budget == 0 or len(self.running) >= self.config.max_sequences:
                break
            if seq.is_held or seq.is_pending:
                continue
            if self._is_being_filled(seq):
                continue  # its prefix will be there to share in a step or two
            count = self._admit(seq, min(budget, rows) if seq.lacks_scores else budget)
            if count == 0:
                break  # no overtaking: the first in line gets the next free blocks
            budget -= count
            rows -= count if seq.lacks_scores else 0
            slices.append(self._slice(seq, count))
        return slices

    def _guess(self, slices: list[SeqSlice]) -> list[SeqSlice]:
        """Decodes with guesses behind them, as far as budget and idle blocks are left over."""
        budget = self.config.max_step_tokens - sum(len(piece.tokens) for piece in slices)
        by_id = {seq.seq_id: seq for seq in self.running}
        out = []
        for piece in slices:
            seq = by_id[piece.seq_id]
            if budget > 0 and piece.samples and len(piece.tokens) == 1 and seq.may_be_guessed and not seq.is_pending:
                room = (len(seq.blocks) + self.pool.num_idle) * self.block_size - len(seq.tokens)
                left = min(seq.prompt_len + seq.request.sampling.max_tokens, self.max_context_len) - len(seq.tokens)
                if seq.drafts is None:
                    seq.drafts = Drafts(self.config.draft_ngram)
                drafts = seq.drafts.propose(seq.tokens, min(self.config.max_draft_tokens, budget, room, left - 1))
                while self._num_blocks(len(seq.tokens) + len(drafts)) > len(seq.blocks):
                    seq.blocks.append(self._take())
                budget -= len(drafts)
                piece = self._slice(seq, 1, drafts)
            out.append(piece)
        return out

    def expect(self, plan: StepPlan) -> None:
        """Books what a step computes that has begun. What it samples is PENDING until `settle`.

        One step may be planned in between: sequences that may end with the token they wait for have no part in it.
        """
        by_id = {seq.seq_id: seq for seq in self.running}
        for piece in plan.slices:
            seq = by_id.get(piece.seq_id)
            if seq is not None:  # else it was removed meanwhile
                seq.num_computed += len(piece.tokens) - piece.num_drafts
                if piece.samples:
                    seq.tokens.append(PENDING)

    def settle(self, plan: StepPlan, result: StepResult) -> list[Sequence | None]:
        """Books what a step sampled. Returns the sequences that got tokens, in the result's order; None: removed."""
        by_id = {seq.seq_id: seq for seq in (*self.waiting, *self.running)}
        sampled = []
        tokens, scores, counts = iter(result.tokens), iter(result.scores), iter(result.counts)
        for piece in plan.slices:
            seq = by_id.get(piece.seq_id)
            told = next(scores) if piece.scored else ()
            got = list(itertools.islice(tokens, next(counts, 1))) if piece.samples else []
            if piece.samples:
                sampled.append(seq)
            if seq is None:
                continue
            if got:
                seq.tokens[-1:] = got
                seq.num_computed += len(got) - 1  # guesses that held
            if told:
                seq.scores[piece.start :] = told
            self._publish(seq)
        return sampled

    def take_changes(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The names published and forgotten since the last call: the state now, not every step towards it."""
        changes, self._changes = self._changes, {}
        published = tuple(name for name, is_published in changes.items() if is_published)
        return published, tuple(name for name, is_published in changes.items() if not is_published)

    def _may_end(self, seq: Sequence) -> bool:
        """It waits for a token, and what follows depends on which one it is, or is nothing."""
        most = min(seq.prompt_len + seq.request.sampling.max_tokens, self.max_context_len)
        return seq.is_pending and (len(seq.tokens) >= most or seq.request.beam is not None)

    # -- the queue

    def _promise(self, seq: Sequence) -> None:
        """Counts what a waiting sequence will have to compute: not what is cached, nor what one before it will."""
        names = self._usable(seq)
        rest = names[len(self.cache.find(names)) :]
        if self._keeper is not None:
            rest = list(itertools.dropwhile(self._keeper.holds, rest))
        missing = [name for name in rest if name not in self._filling and name not in self._promised]
        self._promised.update(dict.fromkeys(missing, seq.seq_id))
        seq.num_missing = len(seq.tokens) - (len(names) - len(missing)) * self.block_size
        self._num_missing_tokens += seq.num_missing

    def _leave_queue(self, seq: Sequence) -> None:
        self.waiting.remove(seq)
        self.num_waiting_tokens -= seq.num_uncomputed
        self._num_missing_tokens -= seq.num_missing
        for name in seq.hashes:
            if self._promised.get(name) == seq.seq_id:
                del self._promised[name]

    # -- blocks

    def _slice(self, seq: Sequence, count: int, drafts: tuple[int, ...] = ()) -> SeqSlice:
        stop = seq.num_computed + count
        return SeqSlice(
            seq_id=seq.seq_id,
            start=seq.num_computed,
            tokens=(*seq.tokens[seq.num_computed : stop], *drafts),
            blocks=tuple(seq.blocks),
            samples=stop == len(seq.tokens),
            num_drafts=len(drafts),
            scored=tuple(seq.tokens[seq.num_computed + 1 : min(stop, seq.num_scored) + 1]) if seq.lacks_scores else (),
        )

    def _grow(self, seq: Sequence, count: int) -> int:
        """Gives a running sequence the blocks for `count` more tokens, at the cost of those after it.

        Returns for how many tokens there are blocks.
        """
        missing = self._num_blocks(seq.num_computed + count) - len(seq.blocks)
        while missing > self.pool.num_idle and self.running[-1] is not seq:
            self._preempt(self.running[-1])
        for _ in range(min(missing, self.pool.num_idle)):
            seq.blocks.append(self._take())
        return min(count, len(seq.blocks) * self.block_size - seq.num_computed)

    def _admit(self, seq: Sequence, budget: int) -> int:
        """Makes a waiting sequence run if there are blocks for its next chunk. Returns the chunk's tokens, or 0."""
        if budget == 0:
            return 0
        found = self._find(seq)
        computed = len(found) * self.block_size
        count = min(len(seq.tokens) - computed, budget)
        if self._num_needed(found, computed + count) > self.pool.num_idle:
            return 0
        self._leave_queue(seq)
        bisect.insort(self.running, seq, key=_order)
        for block in found:
            self.pool.share(block)
        seq.blocks = list(found)
        seq.num_computed = computed
        seq.num_published = len(found)
        self._restore(seq)
        count = min(len(seq.tokens) - seq.num_computed, budget, self._room(seq))
        if seq.cached_tokens is None:
            seq.cached_tokens = min(seq.num_computed, seq.prompt_len)
        while len(seq.blocks) < self._num_blocks(seq.num_computed + count):
            seq.blocks.append(self._take())
        for name in seq.hashes[seq.num_published :] if self.prefix_sharing else ():
            self._filling.setdefault(name, seq.seq_id)
        self._starts.append(self._start(seq))
        return count

    def _restore(self, seq: Sequence) -> None:
        """Brings the blocks back that follow those found, as far as they are kept and there is room for a chunk."""
        if self._keeper is None or self._copies:  # blocks that are still to be copied must not be filled anew
            return
        for name in self._usable(seq)[len(seq.blocks) :]:
            found = self.cache.find([name])
            if self.pool.num_idle < 2 or not (found or self._keeper.holds(name)):
                break
            if found:
                self.pool.share(found[0])
                seq.blocks += found
                continue
            block = self._take()
            if not self._keeper.load(name, block):
                self.pool.release(block, worth_finding=False)
                break
            seq.blocks.append(block)
            self.cache.publish(name, block)
            self._changes[name] = True
        seq.num_computed = len(seq.blocks) * self.block_size
        seq.num_published = len(seq.blocks)

    def _room(self, seq: Sequence) -> int:
        """Tokens that it could compute with its blocks and all idle ones."""
        return (len(seq.blocks) + self.pool.num_idle) * self.block_size - seq.num_computed

    def _start(self, seq: Sequence) -> SeqStart:
        request = seq.request
        return SeqStart(seq.seq_id, request.sampling, seq.seed, request.prompt, seq.output, request.grammar)

    def _make_room(self) -> None:
        """Running sequences give way to a waiting one of better priority, before the step is planned."""
        if not self.waiting:
            return
        first = self.waiting[0]
        while self.running and self.running[-1].order[0] > first.order[0]:
            found = self._find(first)
            stop = min(len(first.tokens), len(found) * self.block_size + self.config.max_step_tokens)
            fits = self._num_needed(found, stop) <= self.pool.num_idle
            if fits and len(self.running) < self.config.max_sequences:
                return
            self._preempt(self.running[-1])

    def _find(self, seq: Sequence) -> list[int]:
        """The published blocks that a waiting sequence can share."""
        return self.cache.find(self._usable(seq))

    def _usable(self, seq: Sequence) -> list[bytes]:
        # the last known token is always computed, for its logits; so are all whose logits are wanted
        if seq.lacks_scores:
            return []
        return seq.hashes[: (len(seq.tokens) - 1) // self.block_size]

    def _num_needed(self, found: list[int], stop: int) -> int:
        """Idle blocks that a sequence needs to share `found` and to compute up to position `stop`."""
        return self._num_blocks(stop) - len(found) + sum(map(self.pool.is_idle, found))

    def _is_being_filled(self, seq: Sequence) -> bool:
        """True if a running sequence is about to compute the block that this one needs next."""
        if not self._filling:
            return False
        usable = self._usable(seq)
        num_found = len(self.cache.find(usable))
        return num_found < len(usable) and usable[num_found] in self._filling

    def _preempt(self, seq: Sequence) -> None:
        """Takes a sequence's blocks away; it will compute them again."""
        self.running.remove(seq)
        self._starts = [start for start in self._starts if start.seq_id != seq.seq_id]
        self._ends.append(seq.seq_id)
        self._free(seq)
        self.add(seq)

    def _free(self, seq: Sequence) -> None:
        for name in seq.hashes[seq.num_published :]:
            if self._filling.get(name) == seq.seq_id:
                del self._filling[name]
        for block in reversed(seq.blocks):  # the end of a prefix goes before its beginning
            self.pool.release(block, worth_finding=self.cache.holds(block))
        seq.blocks = []
        seq.num_computed = seq.num_published = 0

    def _take(self) -> int:
        block = self.pool.take()
        name = self.cache.forget(block)
        if name is not None:
            self._changes[name] = False
        return block

    def _publish(self, seq: Sequence) -> None:
        if not self.prefix_sharing:
            return
        while (seq.num_published + 1) * self.block_size <= seq.num_computed:
            at = seq.num_published
            if at == len(seq.hashes):
                parent = seq.hashes[-1] if seq.hashes else seq.root
                tokens = seq.tokens[at * self.block_size : (at + 1) * self.block_size]
                seq.hashes.append(chain_hash(self.cache_key, parent, tokens))
            name = seq.hashes[at]
            if self.cache.publish(name, seq.blocks[at]):
                self._changes[name] = True
                if self._keeper is not None:
                    self._keeper.save(name, seq.blocks[at])
            if self._filling.get(name) == seq.seq_id:
                del self._filling[name]
            seq.num_published += 1

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    # -- for tests

    def check(self) -> None:
        """Recomputes every redundant fact and asserts that it is right."""
        self.pool.check([block for seq in self.running for block in seq.blocks])
        self.cache.check()
        for seqs in (self.waiting, self.running):
            assert seqs == sorted(seqs, key=_order)
        assert self.num_waiting_tokens == sum(seq.num_uncomputed for seq in self.waiting)
        assert self._num_missing_tokens == sum(seq.num_missing for seq in self.waiting)
        assert all(0 < seq.num_missing <= seq.num_uncomputed for seq in self.waiting)
        assert set(self._promised.values()) <= {seq.seq_id for seq in self.waiting}
        assert not any(seq.blocks for seq in self.waiting)
        running_ids = {seq.seq_id for seq in self.running}
        assert set(self._filling.values()) <= running_ids
        for seq in self.running:
            assert len(seq.blocks) * self.block_size >= seq.num_computed
            assert seq.num_computed < len(seq.tokens)
            assert len(set(seq.blocks)) == len(seq.blocks)
            if self.prefix_sharing:
                assert seq.num_published == seq.num_computed // self.block_size
        assert len(self.running) <= self.config.max_sequences


def _order(seq: Sequence) -> tuple[int, int]:
    return seq.order
