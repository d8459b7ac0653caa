"""The KV connector: the seam between the prefix cache and any other tier of KV blocks (vLLM's KVConnector)."""

from typing import Protocol

__all__ = ["KVConnector"]


class KVConnector(Protocol):
    """Another tier of full blocks, by block hash. engine/cache/kv_offload.py has the host tier of a node."""

    def holds(self, block_hash: bytes) -> bool: ...

    def load(self, block_hash: bytes, block: int) -> bool:
        """Fills a block of the KV cache before the next step. False: the tier has evicted it meanwhile."""
        ...

    def save(self, block_hash: bytes, block: int) -> None:
        """Saves a full block's present contents."""
        ...

    def close(self) -> None:
        """Waits for the blocks that are being saved."""
        ...
