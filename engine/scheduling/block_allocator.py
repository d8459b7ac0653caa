"""The block allocator: gives KV blocks to sequences, by prefix caching where equal prefixes are cached, and frees them.

A sequence has a list of blocks in each cache group, one for each `block_size` of its tokens. It shares the cached
blocks of its prefix, loads blocks from a KV connector (KV offload), or allocates new ones. Blocks are hashed and cached
as they fill, so that later sequences with the same prefix share them. A window group frees what no later token sees:

    window 6, block size 4, 14 tokens computed: the next one, 14, sees from 9 on, which lies in block 2
      group 0   [3  5  8  9]      keeps all
      group 1   [-  - 11 12]      has freed blocks 0 and 1

Stored and removed block hashes of the first group are reported as KV events.
"""

from collections.abc import Container
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import NamedTuple

from engine.cache.block_pool import BlockPool
from engine.cache.cache_layout import CacheGroup
from engine.cache.kv_connector import KVConnector
from engine.cache.prefix_cache import PrefixCache, hash_block, page_name
from engine.cache.prefix_hit import longest_hit
from engine.scheduling.sequence import FREED, Sequence
from engine.scheduling.sequence_states import SequenceStates

__all__ = ["BlockAllocator", "PrefixHit"]


class PrefixHit(NamedTuple):
    """The cached blocks that a sequence can share."""

    num_blocks: int  # of its prefix
    blocks: tuple[tuple[int, ...], ...]  # of each group; FREED where later tokens see none


class BlockAllocator:
    """Allocates and frees the blocks of sequences. The scheduler decides for which, in which order."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        cache_key: bytes | None,
        connector: KVConnector | None = None,
        states: SequenceStates | None = None,
        groups: tuple[CacheGroup, ...] = (CacheGroup(),),
    ) -> None:
        """cache_key   keys the block hashes; None: no prefix caching
        states      of a recurrent model
        """
        self.block_size = block_size
        self.groups = groups
        self._windows = [(number, group) for number, group in enumerate(groups) if not group.keeps_all]
        self.pool = BlockPool(num_blocks)
        self.cache = PrefixCache(len(groups))
        self._cache_key = cache_key
        self._connector = connector if cache_key is not None else None
        self.states = states
        self._filling: dict[bytes, int] = {}  # hash of a prompt block that a running sequence fills -> its seq_id
        self._kv_events: dict[bytes, bool] = {}  # hash -> stored (else removed), since the last take_kv_events

    # -- queries

    def num_blocks_of(self, num_tokens: int) -> int:
        """The number of blocks of `num_tokens` tokens in each group."""
        return -(-num_tokens // self.block_size)

    def num_missing(self, seq: Sequence, stop: int) -> int:
        """Free blocks that a running sequence needs to compute up to position `stop`."""
        return (self.num_blocks_of(stop) - seq.num_blocks) * len(self.groups)

    def num_computable_tokens(self, seq: Sequence) -> int:
        """Tokens that a sequence could compute with its blocks and all free ones."""
        return (seq.num_blocks + self.pool.num_free // len(self.groups)) * self.block_size - seq.num_computed

    def match_prefix(self, seq: Sequence) -> PrefixHit:
        """The cached blocks that a waiting sequence can share."""
        usable = self.usable_hashes(seq)
        count = self._num_shared(usable)
        return PrefixHit(count, tuple(self._cached(number, usable, count) for number in range(len(self.groups))))

    def num_needed(self, hit: PrefixHit, stop: int) -> int:
        """Free blocks that a sequence needs to share `hit` and to compute up to position `stop`."""
        new = (self.num_blocks_of(stop) - hit.num_blocks) * len(self.groups)
        return new + sum(map(self.pool.is_free, (block for blocks in hit.blocks for block in blocks)))

    def usable_hashes(self, seq: Sequence) -> list[bytes]:
        """The block hashes that a sequence may look up."""
        # the last known token is always computed, for its logits; so are all tokens with prompt logprobs
        if seq.lacks_scores:
            return []
        return seq.block_hashes[: (len(seq.tokens) - 1) // self.block_size]

    def missing_hashes(self, seq: Sequence) -> list[bytes]:
        """The usable hashes that are neither cached nor about to be computed by a running sequence."""
        usable = self.usable_hashes(seq)
        count = self._num_shared(usable) if self._connector is None else self._num_restorable(usable, self._connector)
        return [block_hash for block_hash in usable[count:] if block_hash not in self._filling]

    def is_being_filled(self, seq: Sequence) -> bool:
        """Whether a running sequence is about to compute the block that this one needs next."""
        if not self._filling:
            return False
        usable = self.usable_hashes(seq)
        # with a state or without: a running sequence is not far behind
        count = longest_hit(self.groups, self.cache.held, usable, self.block_size)
        return count < len(usable) and usable[count] in self._filling

    def _num_shared(self, usable: list[bytes]) -> int:
        """Blocks of the longest prefix that is cached in every group, and after which there is a state."""
        count = longest_hit(self.groups, self.cache.held, usable, self.block_size)
        while self.states is not None and (shared := self.states.num_shared(usable[:count])) < count:
            count = longest_hit(self.groups, self.cache.held, usable[:shared], self.block_size)
        return count

    def _num_restorable(self, usable: Many[bytes], connector: KVConnector) -> int:
        """The same with blocks and states that connectors hold."""
        held = [_Held(cached, connector, group) for group, cached in enumerate(self.cache.held)]
        count = longest_hit(self.groups, held, usable, self.block_size)
        while self.states is not None and (shared := self.states.num_restorable(usable[:count])) < count:
            count = longest_hit(self.groups, held, usable[:shared], self.block_size)
        return count

    def _first_kept(self, group: CacheGroup, num_tokens: int) -> int:
        """The first block that a group keeps after so many computed tokens."""
        return group.first_seen(num_tokens) // self.block_size

    def _cached(self, number: int, block_hashes: list[bytes], count: int) -> tuple[int, ...]:
        """A group's blocks of a prefix that it holds."""
        first, held = self._first_kept(self.groups[number], count * self.block_size), self.cache.held[number]
        return (*(FREED,) * first, *(held[block_hash] for block_hash in block_hashes[first:count]))

    # -- a sequence begins, grows and ends

    def start(self, seq: Sequence, hit: PrefixHit, may_restore: bool) -> int:
        """Shares the blocks that `match_prefix` has found, and with `may_restore` loads those behind them from the KV
        connector, as far as free blocks for a chunk remain. Returns the number of loaded blocks, counted once for all
        groups.
        """
        self._share(hit.blocks)
        seq.blocks = [list(blocks) for blocks in hit.blocks]
        num_restored = self._restore(seq, self._connector) if self._connector is not None and may_restore else 0
        seq.num_computed = seq.num_blocks * self.block_size
        seq.num_cached_blocks = seq.num_blocks
        if self.states is not None:
            self.states.start(seq)
        for block_hash in seq.block_hashes[seq.num_cached_blocks :] if self._cache_key is not None else ():
            self._filling.setdefault(block_hash, seq.seq_id)
        return num_restored

    def fork(self, parent: Sequence, child: Sequence) -> list[tuple[int, int]]:
        """Starts the child with what the parent has computed. Full blocks are shared; partly filled ones must be
        copied: returns (from, to). There must be a free block for each group.
        """
        num_full = parent.num_computed // self.block_size
        child.blocks = [blocks[:num_full] for blocks in parent.blocks]
        self._share(child.blocks)
        child.num_computed = parent.num_computed
        child.num_cached_blocks = parent.num_cached_blocks
        if self.states is not None:
            self.states.fork(parent, child)
        if parent.num_computed % self.block_size == 0:
            return []
        copies = [(blocks[num_full], self._allocate()) for blocks in parent.blocks]
        for blocks, (_, copy) in zip(child.blocks, copies, strict=True):
            blocks.append(copy)
        return copies

    def allocate(self, seq: Sequence, num_tokens: int) -> None:
        """Allocates the missing blocks of a sequence's first `num_tokens`, while there are free ones."""
        while seq.num_blocks < self.num_blocks_of(num_tokens) and self.pool.num_free >= len(self.groups):
            for blocks in seq.blocks:
                blocks.append(self._allocate())

    def cache_full_blocks(self, seq: Sequence) -> None:
        """Caches newly full blocks under their hashes."""
        if self._cache_key is None:
            return
        self._hash_full_blocks(seq)
        while (seq.num_cached_blocks + 1) * self.block_size <= seq.num_computed:
            block_hash = seq.block_hashes[seq.num_cached_blocks]
            for group, blocks in enumerate(seq.blocks):
                block = blocks[seq.num_cached_blocks]
                if block != FREED and self.cache.insert(block_hash, block, group):
                    self._stored(block_hash, group)
                    if self._connector is not None:
                        self._connector.save(page_name(block_hash, group), block)
            self._end_filling(seq, block_hash)
            seq.num_cached_blocks += 1

    def has_unseen(self, seq: Sequence) -> bool:
        """Whether `free_unseen` would free blocks."""
        firsts = ((number, self._first_kept(group, seq.num_computed)) for number, group in self._windows)
        return any(first and seq.blocks[number][first - 1] != FREED for number, first in firsts)

    def free_unseen(self, seq: Sequence) -> None:
        """Frees the blocks of a running sequence that no later token sees; cached ones stay until they are evicted."""
        for number, group in self._windows:
            blocks = seq.blocks[number]
            first = stop = self._first_kept(group, seq.num_computed)
            while first > 0 and blocks[first - 1] != FREED:
                first -= 1
            for at in range(first, stop):  # the oldest one is evicted first
                self._release(blocks[at])
                blocks[at] = FREED

    def _hash_full_blocks(self, seq: Sequence) -> None:
        """Hashes the blocks of computed tokens, which are all known."""
        assert self._cache_key is not None
        while (len(seq.block_hashes) + 1) * self.block_size <= seq.num_computed:
            at = len(seq.block_hashes)
            parent = seq.block_hashes[-1] if seq.block_hashes else seq.root_hash
            tokens = seq.tokens[at * self.block_size : (at + 1) * self.block_size]
            seq.block_hashes.append(hash_block(self._cache_key, parent, tokens))

    def keep_state(self, seq: Sequence) -> None:
        """Keeps a snapshot of a running sequence's state where one is due, after a whole number of blocks."""
        if self.states is None or self._cache_key is None or not self.states.is_due(seq):
            return
        self._hash_full_blocks(seq)
        self.states.keep(seq)

    def save_states(self) -> None:
        """Saves new snapshots of states, before a step is scheduled and when the last one has begun."""
        if self.states is not None:
            self.states.save_snapshots()

    def num_until_snapshot(self, seq: Sequence) -> int | None:
        """The most tokens that the next step may compute, so that it ends where a snapshot is due; None: any number."""
        if self.states is None or self._cache_key is None:
            return None
        return self.states.num_until_due(seq)

    @property
    def can_copy_state(self) -> bool:
        """Whether a sequence may have draft tokens: a recurrent state must be copied before, as it cannot go back."""
        return self.states is None or self.states.pool.num_free > 0

    def copy_state(self, seq: Sequence) -> None:
        """Copies a recurrent state before a step with draft tokens."""
        if self.states is not None:
            self.states.copy(seq)

    def settle_state(self, seq: Sequence, are_drafts_right: bool) -> bool:
        """Ends what `copy_state` began. Returns whether the state is that after the step, else it is that before it."""
        if self.states is not None:
            self.states.settle(seq, are_drafts_right)
        return self.states is None or are_drafts_right

    def free(self, seq: Sequence) -> None:
        """Frees all blocks of a sequence; cached ones stay until they are evicted."""
        if self.states is not None and seq.state >= 0:
            self.states.free(seq)
        for block_hash in seq.block_hashes[seq.num_cached_blocks :]:
            self._end_filling(seq, block_hash)
        for blocks in reversed(list(zip(*seq.blocks, strict=True))):  # the end of a prefix is evicted before its begin
            for block in blocks:
                if block != FREED:
                    self._release(block)
        seq.blocks = []
        seq.num_computed = seq.num_cached_blocks = seq.num_sent_blocks = 0

    def take_kv_events(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The block hashes stored and removed since the last call: the net change."""
        kv_events, self._kv_events = self._kv_events, {}
        stored_blocks = tuple(block_hash for block_hash, is_stored in kv_events.items() if is_stored)
        return stored_blocks, tuple(block_hash for block_hash, is_stored in kv_events.items() if not is_stored)

    def _restore(self, seq: Sequence, connector: KVConnector) -> int:
        """Extends a sequence's blocks by those that the connector holds. Returns the number of loaded ones."""
        usable = self.usable_hashes(seq)
        loaded: set[int] = set()
        while (count := self._num_restorable(usable, connector)) > seq.num_blocks:
            firsts = [self._first_kept(group, count * self.block_size) for group in self.groups]
            wanted = [(group, at) for group, first in enumerate(firsts) for at in range(first, count)]
            known = {where: self.cache.held[where[0]].get(usable[where[1]]) for where in wanted}
            shared = [block for block in known.values() if block is not None]
            num_allocated = len(wanted) - len(shared) + sum(map(self.pool.is_free, shared))
            if (excess := num_allocated + len(self.groups) - self.pool.num_free) > 0:
                usable = usable[: count - max(1, excess // len(self.groups))]
                continue
            if self.states is not None and not self.states.restore(usable[:count], seq.num_blocks):
                usable = usable[: count - 1]
                continue
            self._share([shared])
            missing = self._load(usable, [where for where in wanted if known[where] is None], connector, loaded)
            if missing is None:
                before = seq.blocks
                seq.blocks = [
                    [FREED] * first + [self.cache.held[group][usable[at]] for at in range(first, count)]
                    for group, first in enumerate(firsts)
                ]
                self._release_all(before)
                break
            self._release_all([shared])
            usable = usable[:missing]
        return len(loaded & set(range(seq.num_blocks)))

    def _load(
        self, usable: list[bytes], wanted: list[tuple[int, int]], connector: KVConnector, loaded: set[int]
    ) -> int | None:
        """Loads blocks (group, number), and caches them. If one was evicted meanwhile, returns its number: no block has
        a reference then.
        """
        blocks: list[int] = []
        for group, at in wanted:
            blocks.append(self._allocate())
            if not connector.load(page_name(usable[at], group), blocks[-1]):
                self._release_all([blocks])
                return at
            self.cache.insert(usable[at], blocks[-1], group)
            self._stored(usable[at], group)
            loaded.add(at)
        return None

    def _share(self, lists: Many[Many[int]]) -> None:
        for blocks in lists:
            for block in blocks:
                if block != FREED:
                    self.pool.touch(block)

    def _release(self, block: int) -> None:
        self.pool.release(block, is_cached=self.cache.holds(block))

    def _release_all(self, lists: Many[Many[int]]) -> None:
        for blocks in lists:
            for block in blocks:
                if block != FREED:
                    self._release(block)

    def _allocate(self) -> int:
        block = self.pool.allocate()
        known = self.cache.evict(block)
        if known is not None and known[0] == 0:
            self._kv_events[known[1]] = False
        return block

    def _stored(self, block_hash: bytes, group: int) -> None:
        if group == 0:
            self._kv_events[block_hash] = True

    def _end_filling(self, seq: Sequence, block_hash: bytes) -> None:
        if self._filling.get(block_hash) == seq.seq_id:
            del self._filling[block_hash]

    # -- for tests

    def check(self, running: list[Sequence]) -> None:
        """Asserts that the running sequences hold exactly the referenced blocks, and what their groups must keep."""
        self.pool.check([block for seq in running for blocks in seq.blocks for block in blocks if block != FREED])
        self.cache.check()
        if self.states is not None:
            self.states.check(running)
        assert set(self._filling.values()) <= {seq.seq_id for seq in running}
        for seq in running:
            assert seq.num_blocks * self.block_size >= seq.num_computed
            for group, blocks in zip(self.groups, seq.blocks, strict=True):
                assert len(blocks) == seq.num_blocks
                kept = [block for block in blocks if block != FREED]
                assert len(set(kept)) == len(kept)
                freed = blocks[: len(blocks) - len(kept)]
                assert freed == [FREED] * len(freed), "a block behind a kept one is missing"
                assert len(freed) <= self._first_kept(group, seq.num_computed), "what the next token sees is missing"
            if self._cache_key is not None:
                assert seq.num_cached_blocks == seq.num_computed // self.block_size


@dataclass(frozen=True, slots=True)
class _Held:
    """What a group or the connector holds."""

    cached: Container[bytes]
    connector: KVConnector
    group: int

    def __contains__(self, block_hash: object) -> bool:
        assert isinstance(block_hash, bytes)
        return block_hash in self.cached or self.connector.holds(page_name(block_hash, self.group))
