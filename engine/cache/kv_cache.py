"""The paged KV cache: the tensors that hold keys and values, in blocks. The block pool knows whose each block is."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.cache.cache_layout import CacheLayout, LayerPages
from engine.cache.cache_spec import StateSpec
from engine.device.transfer import to_device

__all__ = ["KVCache"]


class KVCache:
    """`layers[i]` is what layer i's kernels take, which define a block's inner layout: of attention (k_cache, v_cache),
    each [N', G, P, D], or (latents,); of a recurrent layer the tensors of its state, each [slots, ...]; of
    a layer with both these after those.

    All pages lie in one tensor [pages of a block, N, elements]. A layer's cache is a view of one page of all blocks:
    block n is its row n * `pages` of the layer's cache group, which is 1 unless its pages are smaller than others.
    """

    def __init__(
        self,
        layout: CacheLayout,
        num_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
        num_states: int = 0,
    ) -> None:
        """`num_states`: slots for states, where the model is recurrent."""
        self.layout = layout
        self.num_blocks, self.num_states = num_blocks, num_states
        self.block_size = layout.block_size
        self.dtype, self.device = dtype, device
        shape = (layout.num_pages, num_blocks, layout.page_elements)
        self._pages = torch.empty(shape, dtype=dtype, device=device)  # no slot is read before it is written
        self._states = [
            tuple(torch.empty((num_states, *one.shape), dtype=self._state_dtype(one), device=device) for one in specs)
            for specs in layout.states
        ]
        self.layers = [
            (*(self._caches(pages) if pages is not None else ()), *states)
            for pages, states in zip(layout.pages, self._states, strict=True)
        ]
        # [pages of a block, N, bytes] in host memory
        self._bytes = self._pages.view(torch.uint8).numpy() if self._pages.is_cpu and layout.num_pages else None

    def _caches(self, pages: LayerPages) -> list[Tensor]:
        """[N', G, P, D] of each of a layer's tensors."""
        per_page = self.layout.groups[pages.group].pages
        shape = (self.num_blocks * per_page, pages.spec.num_heads, self.block_size, pages.spec.dim)
        caches = []
        for number in range(pages.first, pages.first + pages.spec.num_tensors):
            page, part = divmod(number, per_page)
            caches.append(self._pages[page].view(shape)[part : shape[0] - per_page + part + 1])
        return caches

    def _state_dtype(self, spec: StateSpec) -> torch.dtype:
        if spec.dtype == "float32":
            return torch.float32
        return torch.bfloat16 if self.dtype.itemsize == 1 else self.dtype

    @property
    def num_block_bytes(self) -> int:
        """Of one block in all layers of a cache group."""
        return self.layout.block_bytes(self.dtype.itemsize)

    def block(self, block: int) -> Tensor:
        """[pages, elements] of a block."""
        return self._pages[:, block]

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies whole blocks (from, to), one after the other: a later copy may read what an earlier one wrote."""
        for source, target in copies:
            self._pages[:, target] = self._pages[:, source]

    def copy_states(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies states in all layers (from, to), one after the other."""
        for source, target in copies:
            for tensors in self._states:
                for tensor in tensors:
                    tensor[target] = tensor[source]

    def buffers(self, block: int) -> list[np.ndarray]:
        """Views of a block's pages in place. On a CPU only."""
        assert self._bytes is not None, "a device's memory is none of the host's"
        return list(self._bytes[:, block])

    def fill(self, block: int, data: bytes) -> None:
        """Copies the bytes of `buffers` into a block, before all that is queued from now on."""
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(self.dtype)
        self.block(block).copy_(to_device(values, self.device).view(self.block(block).shape))
