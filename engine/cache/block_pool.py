"""Who holds which KV block. Ids only: contents are the KVCache's, hashes the PrefixCache's."""

from collections import OrderedDict

__all__ = ["BlockPool"]


class BlockPool:
    """A fixed number of blocks, each held by any number of sequences, or idle.

    Idle blocks keep their contents until they are taken again, and are taken in the order in which they became idle;
    blocks that hold nothing worth finding are taken before all others.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._holders = [0] * num_blocks
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._idle)

    def is_free(self, block: int) -> bool:
        return block in self._idle

    def take(self) -> int:
        """The idle block that is taken next, now held once. There must be one."""
        block, _ = self._idle.popitem(last=False)
        self._holders[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more holder of a block, idle or not."""
        if self._holders[block] == 0:
            del self._idle[block]
        self._holders[block] += 1

    def release(self, block: int, worth_finding: bool) -> None:
        """One holder less. A block that nobody holds becomes idle."""
        assert self._holders[block] > 0, f"block {block} is not held"
        self._holders[block] -= 1
        if self._holders[block] == 0:
            self._idle[block] = None
            self._idle.move_to_end(block, last=worth_finding)

    def check(self, held: list[int]) -> None:
        """Asserts that `held`, every block of every sequence, is exactly what the pool believes."""
        holders = [0] * self.num_blocks
        for block in held:
            holders[block] += 1
        assert holders == self._holders, "holders differ from the sequences' blocks"
        assert {block for block, count in enumerate(holders) if count == 0} == set(self._idle), "idle set is wrong"
