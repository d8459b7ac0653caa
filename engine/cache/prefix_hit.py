"""Prefix hits: after how many blocks of a prefix a sequence can go on, given what each cache group holds."""

from collections.abc import Container, Sequence

from engine.cache.cache_layout import CacheGroup

__all__ = ["longest_hit"]


def longest_hit(
    groups: Sequence[CacheGroup],
    held: Sequence[Container[bytes]],
    block_hashes: Sequence[bytes],
    block_size: int,
) -> int:
    """The most blocks of a prefix after which every group holds all that the next token sees.

    Groups that keep all tokens limit it once: what they hold of a prefix they hold of every shorter one.
    """
    length = len(block_hashes)
    for group, has in zip(groups, held, strict=True):
        if group.keeps_all:
            length = next((at for at in range(length) if block_hashes[at] not in has), length)
    before = -1
    while length != before:
        before = length
        for group, has in zip(groups, held, strict=True):
            if not group.keeps_all:
                length = _longest_window(group, has, block_hashes, length, block_size)
    return length


def _longest_window(
    group: CacheGroup, has: Container[bytes], block_hashes: Sequence[bytes], length: int, block_size: int
) -> int:
    """The most blocks, `length` at most, of which the group holds those that the next token sees."""
    while True:
        first = group.first_seen(length * block_size) // block_size
        missing = next((at for at in range(length - 1, first - 1, -1) if block_hashes[at] not in has), None)
        if missing is None:
            return length
        length = missing
