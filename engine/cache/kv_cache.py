"""The paged KV cache: the tensors that hold keys and values, in blocks. The block pool knows whose each block is."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.checkpoint.arch import ModelArch
from engine.device.transfer import to_device

__all__ = ["KVCache"]


class KVCache:
    """`layers[i]` is layer i's (k_cache, v_cache), each [N, G, P, D]; the kernels define a block's inner layout.

    `by_block[n]` is all of block n, [L, 2, G, P, D].
    """

    def __init__(
        self, arch: ModelArch, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (arch.num_layers, 2, num_blocks, arch.num_kv_heads, block_size, arch.head_dim)
        whole = torch.empty(shape, dtype=dtype, device=device)  # no slot is read before it is written
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.layers: list[tuple[Tensor, Tensor]] = [(layer[0], layer[1]) for layer in whole]
        self.by_block = whole.movedim(2, 0)
        # [L * 2, N, bytes] in host memory
        self._bytes = (
            whole.view(2 * arch.num_layers, num_blocks, -1).view(torch.uint8).numpy() if whole.is_cpu else None
        )

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies whole blocks (from, to), one after the other: a later copy may read what an earlier one wrote."""
        for source, target in copies:
            self.by_block[target] = self.by_block[source]

    def buffers(self, block: int) -> list[np.ndarray]:
        """Views of a block's pieces [L, 2, G, P, D] in place. On a CPU only."""
        assert self._bytes is not None, "a device's memory is none of the host's"
        return list(self._bytes[:, block])

    def fill(self, block: int, data: bytes) -> None:
        """Copies [L, 2, G, P, D] into a block, before all that is queued from now on."""
        here = self.by_block[block]
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(here.dtype).view(here.shape)
        here.copy_(to_device(values, here.device))

    @staticmethod
    def block_bytes(arch: ModelArch, block_size: int, dtype: torch.dtype) -> int:
        """The bytes of one block in all layers."""
        return 2 * arch.num_layers * arch.num_kv_heads * block_size * arch.head_dim * dtype.itemsize
