"""The paged KV cache: the tensors that hold keys and values, in blocks. The block pool knows whose each block is."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.arch.model_arch import ModelArch
from engine.cache.cache_spec import PageSpec, page_spec
from engine.device.transfer import to_device

__all__ = ["KVCache"]


class KVCache:
    """`layers[i]` is what layer i's kernels take: (k_cache, v_cache), each [N, G, P, D]; they define a block's inner
    layout.

    Layers whose pages have one shape lie in one of `stacks`, [N, L, tensors, G, P, D]: block n is row n of each.
    """

    def __init__(
        self, arch: ModelArch, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        specs = [page_spec(layer.mixer) for layer in arch.layers]
        wholes: list[Tensor] = []
        layers: dict[int, tuple[Tensor, ...]] = {}
        for spec in dict.fromkeys(specs):
            indices = [index for index, one in enumerate(specs) if one == spec]
            shape = (len(indices), spec.num_tensors, num_blocks, spec.num_heads, block_size, spec.dim)
            whole = torch.empty(shape, dtype=dtype, device=device)  # no slot is read before it is written
            wholes.append(whole)
            layers |= {index: tuple(tensors) for index, tensors in zip(indices, whole, strict=True)}
        self.layers = [layers[index] for index in range(len(specs))]
        self.stacks = [whole.movedim(2, 0) for whole in wholes]
        # each [L * tensors, N, bytes] in host memory
        self._bytes = [whole.flatten(0, 1).flatten(2).view(torch.uint8).numpy() for whole in wholes if whole.is_cpu]

    @property
    def device(self) -> torch.device:
        return self.stacks[0].device

    @property
    def num_block_bytes(self) -> int:
        """Of one block in all layers."""
        return sum(stack[0].numel() for stack in self.stacks) * self.dtype.itemsize

    def block(self, block: int) -> list[Tensor]:
        """The block's row of each stack."""
        return [stack[block] for stack in self.stacks]

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies whole blocks (from, to), one after the other: a later copy may read what an earlier one wrote."""
        for source, target in copies:
            for stack in self.stacks:
                stack[target] = stack[source]

    def buffers(self, block: int) -> list[np.ndarray]:
        """Views of a block's pages in place, layer by layer of each stack. On a CPU only."""
        assert self._bytes, "a device's memory is none of the host's"
        return [page for pages in self._bytes for page in pages[:, block]]

    def fill(self, block: int, data: bytes) -> None:
        """Copies the bytes of `buffers` into a block, before all that is queued from now on."""
        start = 0
        memory = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        for here in self.block(block):
            num_bytes = here.numel() * here.dtype.itemsize
            values = memory[start : start + num_bytes].view(here.dtype).view(here.shape)
            here.copy_(to_device(values, here.device))
            start += num_bytes

    @staticmethod
    def block_bytes(arch: ModelArch, block_size: int, dtype: torch.dtype) -> int:
        """The bytes of one block in all layers."""
        specs: list[PageSpec] = [page_spec(layer.mixer) for layer in arch.layers]
        return sum(spec.num_elements(block_size) for spec in specs) * dtype.itemsize
