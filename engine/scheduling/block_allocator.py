"""Which blocks a sequence has: found under the names of its prefix, brought back from elsewhere, or taken.

Full blocks are named (engine/cache/prefix_cache.py) as they fill, so that whoever begins alike can share them.
"""

from typing import Protocol

from engine.cache.block_pool import BlockPool
from engine.cache.prefix_cache import PrefixCache, hash_block
from engine.scheduling.sequence import Sequence

__all__ = ["KVConnector", "BlockAllocator"]


class KVConnector(Protocol):
    """Where named blocks are kept besides the cache: engine/cache/kv_offload.py."""

    def holds(self, name: bytes) -> bool: ...

    def load(self, name: bytes, block: int) -> bool:
        """Fills a block, before the next step. False: it was not there any more."""
        ...

    def save(self, name: bytes, block: int) -> None: ...


class BlockAllocator:
    """Gives blocks to sequences and takes them back. Who gets them in which order the scheduler decides."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        enable_prefix_caching: bool,
        cache_key: bytes,
        connector: KVConnector | None,
    ) -> None:
        self.block_size = block_size
        self.pool = BlockPool(num_blocks)
        self.cache = PrefixCache()
        self._enable_prefix_caching = enable_prefix_caching
        self._cache_key = cache_key
        self._connector = connector if enable_prefix_caching else None
        self._filling: dict[bytes, int] = {}  # name of a prompt block not published yet -> seq_id that will fill it
        self._changes: dict[bytes, bool] = {}  # name -> whether it is published, since changes were last taken

    # -- what there is

    def count(self, num_tokens: int) -> int:
        """Blocks of so many tokens."""
        return -(-num_tokens // self.block_size)

    def room(self, seq: Sequence) -> int:
        """Tokens that it could compute with its blocks and all idle ones."""
        return (len(seq.blocks) + self.pool.num_free) * self.block_size - seq.num_computed

    def find(self, seq: Sequence) -> list[int]:
        """The published blocks that a waiting sequence can share."""
        return self.cache.find(self.usable(seq))

    def num_needed(self, found: list[int], stop: int) -> int:
        """Idle blocks that a sequence needs to share `found` and to compute up to position `stop`."""
        return self.count(stop) - len(found) + sum(map(self.pool.is_free, found))

    def usable(self, seq: Sequence) -> list[bytes]:
        """The names under which a sequence may look for blocks."""
        # the last known token is always computed, for its logits; so are all whose logits are wanted
        if seq.lacks_scores:
            return []
        return seq.hashes[: (len(seq.tokens) - 1) // self.block_size]

    def missing(self, seq: Sequence) -> list[bytes]:
        """Of these, what nobody has and no running sequence is about to compute."""
        names = self.usable(seq)
        at = len(self.cache.find(names))
        while self._connector is not None and at < len(names) and self._connector.holds(names[at]):
            at += 1
        return [name for name in names[at:] if name not in self._filling]

    def is_being_filled(self, seq: Sequence) -> bool:
        """True if a running sequence is about to compute the block that this one needs next."""
        if not self._filling:
            return False
        usable = self.usable(seq)
        num_found = len(self.cache.find(usable))
        return num_found < len(usable) and usable[num_found] in self._filling

    # -- a sequence begins, grows and ends

    def begin(self, seq: Sequence, found: list[int], may_restore: bool) -> int:
        """The sequence shares what `find` has found. What follows it and is kept elsewhere is brought back, if it may
        be, and as far as there is room for a chunk. Returns how many blocks were.
        """
        for block in found:
            self.pool.share(block)
        seq.blocks = list(found)
        num_restored = self._restore(seq, self._connector) if self._connector is not None and may_restore else 0
        seq.num_computed = len(seq.blocks) * self.block_size
        seq.num_cached_blocks = len(seq.blocks)
        for name in seq.hashes[seq.num_cached_blocks :] if self._enable_prefix_caching else ():
            self._filling.setdefault(name, seq.seq_id)
        return num_restored

    def fork(self, parent: Sequence, child: Sequence) -> tuple[int, int] | None:
        """The child begins with what the parent has computed. Full blocks are shared; the block that is partly filled
        must be copied, which is returned: from which to which. There must be an idle one for it.
        """
        num_full = parent.num_computed // self.block_size
        child.blocks = parent.blocks[:num_full]
        for block in child.blocks:
            self.pool.share(block)
        child.num_computed = parent.num_computed
        child.num_cached_blocks = parent.num_cached_blocks
        if parent.num_computed % self.block_size == 0:
            return None
        child.blocks.append(self._take())
        return parent.blocks[num_full], child.blocks[num_full]

    def cover(self, seq: Sequence, num_tokens: int) -> None:
        """Takes what it lacks for its first `num_tokens`, as long as there are idle blocks."""
        while len(seq.blocks) < self.count(num_tokens) and self.pool.num_free > 0:
            seq.blocks.append(self._take())

    def publish(self, seq: Sequence) -> None:
        """Names the blocks that have become full."""
        if not self._enable_prefix_caching:
            return
        while (seq.num_cached_blocks + 1) * self.block_size <= seq.num_computed:
            at = seq.num_cached_blocks
            if at == len(seq.hashes):
                parent = seq.hashes[-1] if seq.hashes else seq.root
                tokens = seq.tokens[at * self.block_size : (at + 1) * self.block_size]
                seq.hashes.append(hash_block(self._cache_key, parent, tokens))
            name = seq.hashes[at]
            if self.cache.publish(name, seq.blocks[at]):
                self._changes[name] = True
                if self._connector is not None:
                    self._connector.save(name, seq.blocks[at])
            self._end_filling(seq, name)
            seq.num_cached_blocks += 1

    def release(self, seq: Sequence) -> None:
        """Takes all its blocks away; what is named can still be found."""
        for name in seq.hashes[seq.num_cached_blocks :]:
            self._end_filling(seq, name)
        for block in reversed(seq.blocks):  # the end of a prefix goes before its beginning
            self.pool.release(block, worth_finding=self.cache.holds(block))
        seq.blocks = []
        seq.num_computed = seq.num_cached_blocks = 0

    def take_kv_events(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """The names published and forgotten since the last call: the state now, not every step towards it."""
        changes, self._changes = self._changes, {}
        stored_blocks = tuple(name for name, is_published in changes.items() if is_published)
        return stored_blocks, tuple(name for name, is_published in changes.items() if not is_published)

    def _restore(self, seq: Sequence, connector: KVConnector) -> int:
        num_restored = 0
        for name in self.usable(seq)[len(seq.blocks) :]:
            found = self.cache.find([name])
            if self.pool.num_free < 2 or not (found or connector.holds(name)):
                break
            if found:
                self.pool.share(found[0])
                seq.blocks += found
                continue
            block = self._take()
            if not connector.load(name, block):
                self.pool.release(block, worth_finding=False)
                break
            seq.blocks.append(block)
            self.cache.publish(name, block)
            self._changes[name] = True
            num_restored += 1
        return num_restored

    def _take(self) -> int:
        block = self.pool.take()
        name = self.cache.forget(block)
        if name is not None:
            self._changes[name] = False
        return block

    def _end_filling(self, seq: Sequence, name: bytes) -> None:
        if self._filling.get(name) == seq.seq_id:
            del self._filling[name]

    # -- for tests

    def check(self, running: list[Sequence]) -> None:
        """Asserts that these hold exactly what is held."""
        self.pool.check([block for seq in running for block in seq.blocks])
        self.cache.check()
        assert set(self._filling.values()) <= {seq.seq_id for seq in running}
        for seq in running:
            assert len(seq.blocks) * self.block_size >= seq.num_computed
            assert len(set(seq.blocks)) == len(seq.blocks)
            if self._enable_prefix_caching:
                assert seq.num_cached_blocks == seq.num_computed // self.block_size
