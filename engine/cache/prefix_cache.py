"""The prefix cache: finds the KV blocks of equal prefixes by their block hashes.

A full block's hash covers the hash of the block before it and its own tokens, so equal hashes mean equal prefixes
(automatic prefix caching as in vLLM). It is the keyed BLAKE2b of RFC 7693: the key is secret, so that no client can
construct two prefixes with one hash.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

__all__ = ["BlockHashes", "PrefixCache", "hash_block", "hash_blocks", "page_name", "root_hash"]

DIGEST_BYTES = 16


@dataclass(frozen=True)
class BlockHashes:
    """Of a sequence's tokens, as far as they are known."""

    root: bytes  # of the empty prefix
    full_blocks: tuple[bytes, ...]


def root_hash(key: bytes, model: str, cache_salt: str, adapter: str = "") -> bytes:
    """The hash of the empty prefix: different for each model, adapter and salt, so that they share no blocks."""
    identity = f"{len(model)}:{model}:{cache_salt}"
    if adapter:
        identity = f"{len(adapter)}:{adapter}+{identity}"
    return blake2b(identity.encode("utf-8", "surrogatepass"), key=key[:64], digest_size=DIGEST_BYTES).digest()


def hash_block(key: bytes, parent: bytes, tokens: Sequence[int], digests: Sequence[bytes] = ()) -> bytes:
    """The hash of the block that holds `tokens` after the prefix with the hash `parent`.

    digests   of the media whose placeholders lie in the block, in their order
    """
    content = parent + array("I", tokens).tobytes() + b"".join(digests)
    return blake2b(content, key=key[:64], digest_size=DIGEST_BYTES).digest()


def hash_blocks(key: bytes, root: bytes, tokens: Sequence[int], block_size: int) -> list[bytes]:
    """The block hashes of all full blocks of `tokens`."""
    hashes = []
    parent = root
    for stop in range(block_size, len(tokens) + 1, block_size):
        parent = hash_block(key, parent, tokens[stop - block_size : stop])
        hashes.append(parent)
    return hashes


def page_name(block_hash: bytes, group: int) -> bytes:
    """The name of a cache group's block in other tiers: of the first group the hash itself."""
    return bytes((block_hash[0] ^ group,)) + block_hash[1:] if group else block_hash


class PrefixCache:
    """Block hashes of cached blocks, in each cache group. A block is cached from the step that filled it until it is
    evicted.
    """

    def __init__(self, num_groups: int = 1) -> None:
        self._block_of: list[dict[bytes, int]] = [{} for _ in range(num_groups)]
        self._hash_of: dict[int, tuple[int, bytes]] = {}  # group and hash of a block

    def __len__(self) -> int:
        return len(self._block_of[0])

    @property
    def held(self) -> Sequence[Mapping[bytes, int]]:
        """Each group's blocks by their hashes."""
        return self._block_of

    def insert(self, block_hash: bytes, block: int, group: int = 0) -> bool:
        """Caches a full block. False if another block of the group has that hash already."""
        if block_hash in self._block_of[group]:
            return False
        self._block_of[group][block_hash] = block
        self._hash_of[block] = group, block_hash
        return True

    def match(self, block_hashes: Sequence[bytes]) -> list[int]:
        """The first group's blocks of the longest cached prefix of `block_hashes`."""
        blocks = []
        for block_hash in block_hashes:
            block = self._block_of[0].get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def holds(self, block: int) -> bool:
        return block in self._hash_of

    def evict(self, block: int) -> tuple[int, bytes] | None:
        """Uncaches a block that is about to be overwritten. Returns the group and the hash that it had."""
        known = self._hash_of.pop(block, None)
        if known is not None:
            group, block_hash = known
            del self._block_of[group][block_hash]
        return known

    def block_hashes(self) -> list[bytes]:
        """Every hash that the first group has: the initial state for a router that subscribes to KV events."""
        return list(self._block_of[0])

    def check(self) -> None:
        known = {
            block: (group, block_hash)
            for group, blocks in enumerate(self._block_of)
            for block_hash, block in blocks.items()
        }
        assert known == self._hash_of
