"""The KV connector: the seam between the prefix cache and any other tier of KV blocks (vLLM's KVConnector)."""

from typing import Protocol

__all__ = ["KVConnector"]


class KVConnector(Protocol):
    """Another tier of full blocks by block hash, or of recurrent states by the hash of the block that they come after.

    engine/cache/kv_offload.py has the host tier of a node.
    """

    def holds(self, block_hash: bytes) -> bool: ...

    def load(self, block_hash: bytes, block: int) -> bool:
        """Fills a block, or a state's slot, before the next step. False: the tier has evicted it meanwhile."""
        ...

    def save(self, block_hash: bytes, block: int) -> None:
        """Saves the present contents of a full block, or of a state's slot."""
        ...

    def close(self) -> None:
        """Waits for what is being saved."""
        ...
