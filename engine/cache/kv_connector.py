"""The KV connector: the seam between the prefix cache and any other tier of KV blocks (vLLM's KVConnector)."""

from typing import Protocol

__all__ = ["KVConnector"]


class KVConnector(Protocol):
    """Another place for full blocks, by block hash. engine/cache/kv_offload.py has the host tier of a node."""

    def holds(self, block_hash: bytes) -> bool: ...

    def load(self, block_hash: bytes, block: int) -> bool:
        """Fills a block of the KV cache before the next step. False: it was evicted meanwhile."""
        ...

    def save(self, block_hash: bytes, block: int) -> None:
        """Keeps what a full block is now."""
        ...

    def close(self) -> None:
        """Blocks that are on their way are kept."""
        ...
