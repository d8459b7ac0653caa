"""The block allocator: gives KV blocks to sequences, by prefix caching where equal prefixes are cached, and frees them.

A sequence shares the cached blocks of its prefix, loads blocks from a KV connector (KV offload), or allocates new ones.
Blocks are hashed and cached as they fill, so that later sequences with the same prefix share them. Stored and removed
block hashes are reported as KV events.
"""

from engine.cache.block_pool import BlockPool
from engine.cache.kv_connector import KVConnector
from engine.cache.prefix_cache import PrefixCache, hash_block
from engine.scheduling.sequence import Sequence
from engine.scheduling.sequence_states import SequenceStates

__all__ = ["BlockAllocator"]


class BlockAllocator:
    """Allocates and frees the blocks of sequences. The scheduler decides for which, in which order."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        enable_prefix_caching: bool,
        cache_key: bytes,
        connector: KVConnector | None = None,
        states: SequenceStates | None = None,
    ) -> None:
        """`states`: of a recurrent model, which has no KV connector then."""
        self.block_size = block_size
        self.pool = BlockPool(num_blocks)
        self.cache = PrefixCache()
        self._enable_prefix_caching = enable_prefix_caching
        self._cache_key = cache_key
        self._connector = connector if enable_prefix_caching and states is None else None
        self.states = states
        self._filling: dict[bytes, int] = {}  # hash of a prompt block that a running sequence fills -> its seq_id
        self._kv_events: dict[bytes, bool] = {}  # hash -> stored (else removed), since the last take_kv_events

    # -- queries

    def num_blocks_of(self, num_tokens: int) -> int:
        """The number of blocks of `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def num_computable_tokens(self, seq: Sequence) -> int:
        """Tokens that a sequence could compute with its blocks and all free ones."""
        return (len(seq.blocks) + self.pool.num_free) * self.block_size - seq.num_computed

    def match_prefix(self, seq: Sequence) -> list[int]:
        """The cached blocks that a waiting sequence can share."""
        usable = self.usable_hashes(seq)
        found = self.cache.match(usable)
        return found if self.states is None else found[: self.states.num_shared(usable[: len(found)])]

    def num_needed(self, found: list[int], stop: int) -> int:
        """Free blocks that a sequence needs to share `found` and to compute up to position `stop`."""
        return self.num_blocks_of(stop) - len(found) + sum(map(self.pool.is_free, found))

    def usable_hashes(self, seq: Sequence) -> list[bytes]:
        """The block hashes that a sequence may look up."""
        # the last known token is always computed, for its logits; so are all tokens with prompt logprobs
        if seq.lacks_scores:
            return []
        return seq.block_hashes[: (len(seq.tokens) - 1) // self.block_size]

    def missing_hashes(self, seq: Sequence) -> list[bytes]:
        """The usable hashes that are neither cached nor about to be computed by a running sequence."""
        block_hashes = self.usable_hashes(seq)
        at = len(self.cache.match(block_hashes))
        while self._connector is not None and at < len(block_hashes) and self._connector.holds(block_hashes[at]):
            at += 1
        return [block_hash for block_hash in block_hashes[at:] if block_hash not in self._filling]

    def is_being_filled(self, seq: Sequence) -> bool:
        """Whether a running sequence is about to compute the block that this one needs next."""
        if not self._filling:
            return False
        usable = self.usable_hashes(seq)
        num_found = len(self.cache.match(usable))  # with a state or without: a running sequence is not far behind
        return num_found < len(usable) and usable[num_found] in self._filling

    # -- a sequence begins, grows and ends

    def start(self, seq: Sequence, found: list[int], may_restore: bool) -> int:
        """Shares the blocks that `match_prefix` has found, and with `may_restore` loads those behind them from the KV
        connector, as far as free blocks for a chunk remain. Returns the number of loaded blocks.
        """
        for block in found:
            self.pool.touch(block)
        seq.blocks = list(found)
        num_restored = self._restore(seq, self._connector) if self._connector is not None and may_restore else 0
        seq.num_computed = len(seq.blocks) * self.block_size
        seq.num_cached_blocks = len(seq.blocks)
        if self.states is not None:
            self.states.start(seq)
        for block_hash in seq.block_hashes[seq.num_cached_blocks :] if self._enable_prefix_caching else ():
            self._filling.setdefault(block_hash, seq.seq_id)
        return num_restored

    def fork(self, parent: Sequence, child: Sequence) -> tuple[int, int] | None:
        """Starts the child with what the parent has computed. Full blocks are shared; the partly filled one must be
        copied: returns (from, to). There must be a free block for it.
        """
        num_full = parent.num_computed // self.block_size
        child.blocks = parent.blocks[:num_full]
        for block in child.blocks:
            self.pool.touch(block)
        child.num_computed = parent.num_computed
        child.num_cached_blocks = parent.num_cached_blocks
        if self.states is not None:
            self.states.fork(parent, child)
        if parent.num_computed % self.block_size == 0:
            return None
        child.blocks.append(self._allocate())
        return parent.blocks[num_full], child.blocks[num_full]

    def allocate(self, seq: Sequence, num_tokens: int) -> None:
        """Allocates the missing blocks of a sequence's first `num_tokens`, while there are free ones."""
        while len(seq.blocks) < self.num_blocks_of(num_tokens) and self.pool.num_free > 0:
            seq.blocks.append(self._allocate())

    def cache_full_blocks(self, seq: Sequence) -> None:
        """Caches newly full blocks under their hashes."""
        if not self._enable_prefix_caching:
            return
        self._hash_full_blocks(seq)
        while (seq.num_cached_blocks + 1) * self.block_size <= seq.num_computed:
            at = seq.num_cached_blocks
            block_hash = seq.block_hashes[at]
            if self.cache.insert(block_hash, seq.blocks[at]):
                self._kv_events[block_hash] = True
                if self._connector is not None:
                    self._connector.save(block_hash, seq.blocks[at])
            self._end_filling(seq, block_hash)
            seq.num_cached_blocks += 1

    def _hash_full_blocks(self, seq: Sequence) -> None:
        """Hashes the blocks of computed tokens, which are all known."""
        while (len(seq.block_hashes) + 1) * self.block_size <= seq.num_computed:
            at = len(seq.block_hashes)
            parent = seq.block_hashes[-1] if seq.block_hashes else seq.root_hash
            tokens = seq.tokens[at * self.block_size : (at + 1) * self.block_size]
            seq.block_hashes.append(hash_block(self._cache_key, parent, tokens))

    def keep_state(self, seq: Sequence) -> None:
        """Keeps a snapshot of a running sequence's state where one is due, after a whole number of blocks."""
        if self.states is None or not self._enable_prefix_caching or not self.states.is_due(seq):
            return
        self._hash_full_blocks(seq)
        self.states.keep(seq)

    def num_until_snapshot(self, seq: Sequence) -> int | None:
        """The most tokens that the next step may compute, so that it ends where a snapshot is due; None: any number."""
        if self.states is None or not self._enable_prefix_caching:
            return None
        return self.states.num_until_due(seq)

    def free(self, seq: Sequence) -> None:
        """Frees all blocks of a sequence; cached ones stay until they are evicted."""
        if self.states is not None and seq.state >= 0:
            self.states.free(seq)
        for block_hash in seq.block_hashes[seq.num_cached_blocks :]:
            self._end_filling(seq, block_hash)
        for block in reversed(seq.blocks):  # the end of a prefix is evicted before its beginning
            self.pool.release(block, is_cached=self.cache.holds(block))
        seq.blocks = []
        seq.num_computed = seq.num_cached_blocks = 0

    def take_kv_events(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The block hashes stored and removed since the last call: the net change."""
        kv_events, self._kv_events = self._kv_events, {}
        stored_blocks = tuple(block_hash for block_hash, is_stored in kv_events.items() if is_stored)
        return stored_blocks, tuple(block_hash for block_hash, is_stored in kv_events.items() if not is_stored)

    def _restore(self, seq: Sequence, connector: KVConnector) -> int:
        num_restored = 0
        for block_hash in self.usable_hashes(seq)[len(seq.blocks) :]:
            found = self.cache.match([block_hash])
            if self.pool.num_free < 2 or not (found or connector.holds(block_hash)):
                break
            if found:
                self.pool.touch(found[0])
                seq.blocks += found
                continue
            block = self._allocate()
            if not connector.load(block_hash, block):
                self.pool.release(block, is_cached=False)
                break
            seq.blocks.append(block)
            self.cache.insert(block_hash, block)
            self._kv_events[block_hash] = True
            num_restored += 1
        return num_restored

    def _allocate(self) -> int:
        block = self.pool.allocate()
        block_hash = self.cache.evict(block)
        if block_hash is not None:
            self._kv_events[block_hash] = False
        return block

    def _end_filling(self, seq: Sequence, block_hash: bytes) -> None:
        if self._filling.get(block_hash) == seq.seq_id:
            del self._filling[block_hash]

    # -- for tests

    def check(self, running: list[Sequence]) -> None:
        """Asserts that the running sequences hold exactly the referenced blocks."""
        self.pool.check([block for seq in running for block in seq.blocks])
        self.cache.check()
        if self.states is not None:
            self.states.check(running)
        assert set(self._filling.values()) <= {seq.seq_id for seq in running}
        for seq in running:
            assert len(seq.blocks) * self.block_size >= seq.num_computed
            assert len(set(seq.blocks)) == len(seq.blocks)
            if self._enable_prefix_caching:
                assert seq.num_cached_blocks == seq.num_computed // self.block_size
