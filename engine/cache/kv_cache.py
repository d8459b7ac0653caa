"""The paged KV cache: the tensors that hold keys and values, in blocks. The block pool knows whose each block is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.cache.cache_layout import CacheLayout, LayerPages
from engine.cache.cache_spec import StateSpec
from engine.device.transfer import to_device

__all__ = ["CachePieces", "KVCache", "split_as"]


class CachePieces(NamedTuple):
    """What other tiers keep of a KV cache: its blocks, or its states, by their numbers."""

    num_bytes: int  # of one
    device: torch.device
    parts: Callable[[int], list[Tensor]]  # views in place, those with the largest elements first
    buffers: Callable[[int], list[np.ndarray]]  # the same bytes in the same order; on a CPU only

    def fill(self, number: int, data: bytes) -> None:
        """Copies the bytes of `buffers` into a piece, before all that is queued from now on."""
        values = to_device(torch.frombuffer(bytearray(data), dtype=torch.uint8), self.device)
        parts = self.parts(number)
        for part, value in zip(parts, split_as(parts, values), strict=True):
            part.copy_(value)


def split_as(parts: Sequence[Tensor], data: Tensor) -> list[Tensor]:
    """Views of `data`, [bytes], with the shapes and dtypes of the parts, one behind the other."""
    views, at = [], 0
    for part in parts:
        num_bytes = part.numel() * part.itemsize
        views.append(data[at : at + num_bytes].view(part.dtype).view(part.shape))
        at += num_bytes
    return views


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
    def blocks(self) -> CachePieces:
        """A piece is a block in all layers of a cache group."""
        num_bytes = self.layout.block_bytes(self.dtype.itemsize)
        return CachePieces(num_bytes, self.device, lambda block: [self.block(block)], self._buffers)

    @property
    def states(self) -> CachePieces:
        """A piece is a state in all recurrent layers."""
        tensors = sorted((one for ones in self._states for one in ones), key=lambda one: -one.itemsize)

        def parts(state: int) -> list[Tensor]:
            return [one[state] for one in tensors]

        def buffers(state: int) -> list[np.ndarray]:
            return [part.reshape(-1).view(torch.uint8).numpy() for part in parts(state)]

        num_bytes = sum(one[0].numel() * one.itemsize for one in tensors)
        return CachePieces(num_bytes, self.device, parts, buffers)

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

    def _buffers(self, block: int) -> list[np.ndarray]:
        assert self._bytes is not None, "a device's memory is none of the host's"
        return list(self._bytes[:, block])
