"""The block allocator: exact block ids, prefix hits, KV events."""

from engine.cache.prefix_cache import hash_blocks
from engine.scheduling.block_allocator import BlockAllocator, PrefixHit
from tests.engine.scheduling.sequences import BLOCK_SIZE, KEY, ROOT, sequence

NOTHING = PrefixHit(0, ((),))


def computed(blocks: BlockAllocator, seq, num_tokens: int) -> None:
    """As after a step that computed so many tokens of a sequence."""
    blocks.allocate(seq, seq.num_computed + num_tokens)
    seq.num_computed += num_tokens
    blocks.cache_full_blocks(seq)


def test_a_sequence_gets_the_blocks_of_its_cached_prefix_and_new_ones_behind_them() -> None:
    blocks = BlockAllocator(8, BLOCK_SIZE, KEY, None)
    first = sequence(0, list(range(10)))
    assert blocks.match_prefix(first) == NOTHING and blocks.start(first, NOTHING, may_restore=False) == 0
    computed(blocks, first, 10)
    assert first.blocks == [[0, 1, 2]] and first.num_cached_blocks == 2
    second = sequence(1, [*range(8), 99, 98])
    found = blocks.match_prefix(second)
    assert found == PrefixHit(2, ((0, 1),)) and blocks.num_needed(found, 10) == 1
    blocks.start(second, found, may_restore=False)
    assert second.num_computed == 8
    computed(blocks, second, 2)
    assert second.blocks == [[0, 1, 3]]
    blocks.check([first, second])


def test_the_last_token_is_always_computed() -> None:
    blocks = BlockAllocator(8, BLOCK_SIZE, KEY, None)
    first = sequence(0, list(range(8)))
    blocks.start(first, NOTHING, may_restore=False)
    computed(blocks, first, 8)
    same = sequence(1, list(range(8)))
    assert blocks.match_prefix(same).blocks == ((0,),), "its logits are needed: the second block is computed again"


def test_freed_blocks_are_found_until_they_are_evicted_end_of_the_prefix_first() -> None:
    blocks = BlockAllocator(4, BLOCK_SIZE, KEY, None)
    first = sequence(0, list(range(13)))
    blocks.start(first, NOTHING, may_restore=False)
    computed(blocks, first, 13)
    hashes = hash_blocks(KEY, ROOT, range(13), BLOCK_SIZE)
    assert blocks.take_kv_events() == (tuple(hashes), ())
    blocks.free(first)
    again = sequence(1, list(range(13)))
    assert blocks.match_prefix(again).blocks == ((0, 1, 2),)
    other = sequence(2, [50, 51, 52, 53, 54])
    blocks.start(other, NOTHING, may_restore=False)
    computed(blocks, other, 5)  # block 3 was never cached; then the end of the freed prefix goes
    assert other.blocks == [[3, 2]] and blocks.match_prefix(again).blocks == ((0, 1),)
    (new,) = hash_blocks(KEY, ROOT, [50, 51, 52, 53], BLOCK_SIZE)
    assert blocks.take_kv_events() == ((new,), (hashes[2],))
    assert blocks.take_kv_events() == ((), ())


def test_a_fork_shares_full_blocks_and_copies_the_partial_one() -> None:
    blocks = BlockAllocator(8, BLOCK_SIZE, KEY, None)
    parent, child = sequence(0, list(range(6))), sequence(1, list(range(6)))
    blocks.start(parent, NOTHING, may_restore=False)
    computed(blocks, parent, 6)
    assert blocks.fork(parent, child) == [(1, 2)]
    assert child.blocks == [[0, 2]] and child.num_computed == 6
    blocks.check([parent, child])


def test_without_prefix_caching_nothing_is_shared_or_reported() -> None:
    blocks = BlockAllocator(8, BLOCK_SIZE, None, None)
    first = sequence(0, list(range(8)))
    blocks.start(first, NOTHING, may_restore=False)
    computed(blocks, first, 8)
    assert blocks.match_prefix(sequence(1, list(range(8)))) == NOTHING and blocks.take_kv_events() == ((), ())
