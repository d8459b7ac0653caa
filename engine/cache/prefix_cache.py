"""Which block holds the keys and values of which tokens.

A full block is named by a chained keyed hash: of the block before it and of its own tokens. Equal names therefore mean
equal prefixes, up to the first token. The key is secret, so nobody can construct two prefixes with one name
(automatic prefix caching as in vLLM, with the keyed BLAKE2b of RFC 7693 in place of a plain hash).
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

__all__ = ["PrefixCache", "hash_block", "root_hash", "hash_blocks"]

DIGEST_BYTES = 16


def root_hash(key: bytes, model: str, cache_salt: str) -> bytes:
    """The name of the empty prefix: different for each model and salt, so their blocks never meet."""
    identity = f"{len(model)}:{model}:{cache_salt}".encode("utf-8", "surrogatepass")
    return blake2b(identity, key=key[:64], digest_size=DIGEST_BYTES).digest()


def hash_block(key: bytes, parent: bytes, tokens: Sequence[int]) -> bytes:
    """The name of the block that holds `tokens` after the prefix named `parent`."""
    return blake2b(parent + array("I", tokens).tobytes(), key=key[:64], digest_size=DIGEST_BYTES).digest()


def hash_blocks(key: bytes, root: bytes, tokens: Sequence[int], block_size: int) -> list[bytes]:
    """The names of all full blocks of `tokens`."""
    names = []
    name = root
    for stop in range(block_size, len(tokens) + 1, block_size):
        name = hash_block(key, name, tokens[stop - block_size : stop])
        names.append(name)
    return names


class PrefixCache:
    """Names of published blocks. A block is published after the step that filled it, until it is taken again."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._block_of)

    def publish(self, name: bytes, block: int) -> bool:
        """Makes a full block findable. False if another block has that name already."""
        if name in self._block_of:
            return False
        self._block_of[name] = block
        self._name_of[block] = name
        return True

    def find(self, names: Sequence[bytes]) -> list[int]:
        """The blocks of the longest published prefix of `names`."""
        blocks = []
        for name in names:
            block = self._block_of.get(name)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def holds(self, block: int) -> bool:
        return block in self._name_of

    def forget(self, block: int) -> bytes | None:
        """The block is about to be written again. Returns the name it had."""
        name = self._name_of.pop(block, None)
        if name is not None:
            del self._block_of[name]
        return name

    def names(self) -> list[bytes]:
        """Every published name, for a router that starts to listen."""
        return list(self._block_of)

    def check(self) -> None:
        assert {block: name for name, block in self._block_of.items()} == self._name_of
