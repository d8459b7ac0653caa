"""The prefix cache: block hashes that chain, and the longest prefix that is cached."""

import itertools

from engine.cache.prefix_cache import PrefixCache, hash_block, hash_blocks, root_hash

KEY = b"key"
ROOT = root_hash(KEY, "model", "")


def test_hashes_are_those_of_full_blocks_alone_and_chain() -> None:
    hashes = hash_blocks(KEY, ROOT, [1, 2, 3, 4, 5], 2)
    first = hash_block(KEY, ROOT, [1, 2])
    assert hashes == [first, hash_block(KEY, first, [3, 4])]
    assert hash_blocks(KEY, ROOT, [9, 2, 3, 4], 2)[1] != hashes[1]  # the same tokens after others
    assert hash_blocks(KEY, ROOT, [1], 2) == []


def test_model_adapter_salt_key_and_media_keep_blocks_apart() -> None:
    roots = [
        root_hash(key, model, salt, adapter)
        for key, model, salt, adapter in itertools.product((b"a", b"b"), ("m", "n"), ("", "s", "1:s"), ("", "lora"))
    ]
    assert len(set(roots)) == len(roots)
    media = [hash_block(KEY, ROOT, [1, 2], digests) for digests in ((), (b"x" * 16,), (b"y" * 16,), (b"x" * 16,) * 2)]
    assert len(set(media)) == 4


def test_the_longest_cached_prefix_is_matched() -> None:
    cache = PrefixCache()
    a, b, c = hash_blocks(KEY, ROOT, range(6), 2)
    assert cache.insert(a, 7) and cache.insert(c, 9)
    assert cache.match([a, b, c]) == [7]  # b is missing: what follows it is no prefix
    assert cache.insert(b, 8)
    assert cache.match([a, b, c]) == [7, 8, 9] and cache.match([b]) == [8] and cache.match([]) == []


def test_a_hash_belongs_to_one_block_until_that_is_evicted() -> None:
    cache = PrefixCache()
    (a,) = hash_blocks(KEY, ROOT, [1, 2], 2)
    assert cache.insert(a, 0) and not cache.insert(a, 1)
    assert cache.holds(0) and not cache.holds(1) and cache.block_hashes() == [a] and len(cache) == 1
    assert cache.evict(1) is None and cache.evict(0) == (0, a)
    assert cache.match([a]) == [] and not cache.holds(0) and len(cache) == 0
    assert cache.insert(a, 1)
    cache.check()
