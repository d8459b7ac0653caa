"""The paged KV cache: the tensors that hold keys and values, in blocks. The block pool knows whose each block is."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.arch.model_arch import ModelArch
from engine.cache.cache_spec import PageSpec, StateSpec, page_spec, state_specs
from engine.device.transfer import to_device

__all__ = ["KVCache"]


class KVCache:
    """`layers[i]` is what layer i's kernels take, which define a block's inner layout: of attention (k_cache, v_cache),
    each [N, G, P, D], or (latents,); of a recurrent layer the tensors of its state, each [slots, ...]; of
    a layer with both these after those. Layers that read the keys and values of another have that one's tensors.

    Layers whose pages have one shape lie in one of `stacks`, [N, L, tensors, G, P, D]: block n is row n of each.
    """

    def __init__(
        self,
        arch: ModelArch,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        num_states: int = 0,
    ) -> None:
        """`num_states`: slots for states, where the model is recurrent."""
        self.num_blocks, self.num_states = num_blocks, num_states
        self.block_size = block_size
        self.dtype, self.device = dtype, device
        wholes: list[Tensor] = []
        layers: dict[int, tuple[Tensor, ...]] = {}
        for spec, indices in _layers_by_page(arch).items():
            shape = (len(indices), spec.num_tensors, num_blocks, spec.num_heads, block_size, spec.dim)
            whole = torch.empty(shape, dtype=dtype, device=device)  # no slot is read before it is written
            wholes.append(whole)
            layers |= {index: tuple(tensors) for index, tensors in zip(indices, whole, strict=True)}
        states = {
            index: tuple(
                torch.empty((num_states, *one.shape), dtype=self._state_dtype(one), device=device)
                for one in state_specs(layer.mixer)
            )
            for index, layer in enumerate(arch.layers)
        }
        self.layers = [(*layers.get(arch.kv_layer(index), ()), *states[index]) for index in range(len(arch.layers))]
        self._states = list(states.values())
        self.stacks = [whole.movedim(2, 0) for whole in wholes]
        # each [L * tensors, N, bytes] in host memory
        self._bytes = [whole.flatten(0, 1).flatten(2).view(torch.uint8).numpy() for whole in wholes if whole.is_cpu]

    def _state_dtype(self, spec: StateSpec) -> torch.dtype:
        if spec.dtype == "float32":
            return torch.float32
        return torch.bfloat16 if self.dtype.itemsize == 1 else self.dtype

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

    def copy_states(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies states in all layers (from, to), one after the other."""
        for source, target in copies:
            for tensors in self._states:
                for tensor in tensors:
                    tensor[target] = tensor[source]

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
        pages = _layers_by_page(arch)
        return sum(spec.num_elements(block_size) * len(indices) for spec, indices in pages.items()) * dtype.itemsize

    @staticmethod
    def state_bytes(arch: ModelArch, dtype: torch.dtype) -> int:
        """The bytes of one state in all layers."""
        itemsize = max(2, dtype.itemsize)
        return sum(one.num_bytes(itemsize) for layer in arch.layers for one in state_specs(layer.mixer))


def _layers_by_page(arch: ModelArch) -> dict[PageSpec, list[int]]:
    pages: dict[PageSpec, list[int]] = {}
    for index, layer in enumerate(arch.layers):
        if (spec := page_spec(layer.mixer)) is not None:
            pages.setdefault(spec, []).append(index)
    return pages
