"""KV offload of several ranks: the shards of a block that a tensor-parallel replica keeps and finds on its node."""

from collections.abc import Callable, Sequence

from engine.cache.host_tier import HostTier
from engine.cache.kv_offload import OffloadingConnector
from engine.parallel.worker_commands import LoadBlock, SaveBlock, WorkerCommand

__all__ = ["RankOffloadingConnector"]


class RankOffloadingConnector:
    """Rank 0's KV connector. Each rank has its shard of a block in a host tier of its own; a block is cached if all
    shards are.

    Another replica may evict a shard at any time, so rank 0 reads the shards of all ranks before it reports a hit, and
    sends them with the command to load the block.
    """

    def __init__(
        self,
        own: OffloadingConnector,
        others: Sequence[HostTier],
        send: Callable[[WorkerCommand], None],
        is_state: bool = False,
    ) -> None:
        """`others` are the host tiers of the ranks from 1 on; they are closed with this. `send` sends commands to these
        ranks, in order with the steps. `is_state`: they are of states, not of blocks."""
        self._own = own
        self._others = others
        self._send = send
        self._is_state = is_state

    def holds(self, name: bytes) -> bool:
        return self._own.holds(name) and all(host_tier.holds(name) for host_tier in self._others)

    def load(self, name: bytes, block: int) -> bool:
        shares = [_read(host_tier, name) for host_tier in self._others]
        if any(share is None for share in shares) or not self._own.load(name, block):
            return False
        self._send(LoadBlock(block, tuple(share for share in shares if share is not None), self._is_state))
        return True

    def save(self, name: bytes, block: int) -> None:
        if not self.holds(name):
            self._own.save(name, block)
            self._send(SaveBlock(name, block, self._is_state))

    def close(self) -> None:
        for host_tier in self._others:
            host_tier.close()


def _read(host_tier: HostTier, name: bytes) -> bytes | None:
    share = bytearray(host_tier.piece_bytes)
    return bytes(share) if host_tier.read(name, [share]) else None
