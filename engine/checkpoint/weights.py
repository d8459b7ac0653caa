"""Loads a model's weights by their hub names, each once, and accounts for all of them."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource
from engine.checkpoint.weight_cache import WeightCache
from engine.errors import ModelError
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["Weights"]


class Weights:
    """Takes tensors from a source one at a time, so that at most one is in memory twice. `dtype` is the model's."""

    def __init__(
        self,
        source: TensorSource,
        dtype: torch.dtype,
        device: torch.device,
        keeps_ints: bool = False,
        may_be_unused: Callable[[str], bool] = lambda name: False,
        cache: WeightCache | None = None,
    ) -> None:
        """keeps_ints      group-quantized matrices stay so; else they are dequantized to `dtype`
        may_be_unused   whether a tensor of that name may stay unread
        cache           what was read before comes from there
        """
        self._source = source
        self._may_be_unused = may_be_unused
        self._keeps_ints = keeps_ints
        self._cache = cache or WeightCache(0)
        self.dtype = dtype
        self.device = device
        self._left = source.names()
        # a progress bar only on a terminal
        self._bar = tqdm(total=len(self._left), desc="weights", unit="tensor", disable=not sys.stderr.isatty())

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None, part: Shard | None = None) -> Tensor:
        """A tensor that must exist in this shape, or a shard of it, in `dtype` (None: the model's)."""
        self._mark_read(name, shape)
        dtype = dtype or self.dtype
        return self._cache.tensor(f"{name} {part} {dtype}", lambda: self._read(name, part, dtype))

    def take_matrix(self, name: str, *shape: int, part: Shard | None = None) -> Matrix:
        """A linear layer's weight that must exist in this shape, or a shard of it; for kernels alone."""
        self._mark_read(name, shape)
        matrix = self._cache.matrix(f"{name} {part}", lambda: self._read_matrix(name, part))
        assert matrix is not None
        return matrix

    def take_group_quantized(self, name: str, part: Shard | None = None) -> GroupQuantized | None:
        """A matrix that was taken before as a dense tensor, group-quantized; None if the checkpoint has it dense."""

        def read() -> GroupQuantized | None:
            matrix = self._source.read_matrix(name, part) if self._keeps_ints else None
            return matrix.to(self.device) if isinstance(matrix, GroupQuantized) else None

        found = self._cache.matrix(f"{name} {part} once more", read)
        assert not isinstance(found, Tensor)
        return found

    def _read(self, name: str, part: Shard | None, dtype: torch.dtype) -> Tensor:
        return self._source.read(name, part).to(self.device, dtype)

    def _read_matrix(self, name: str, part: Shard | None) -> Matrix:
        if not self._keeps_ints:
            return self._read(name, part, self.dtype)
        matrix = self._source.read_matrix(name, part)
        return matrix.to(self.device, self.dtype) if isinstance(matrix, Tensor) else matrix.to(self.device)

    def _mark_read(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self._left:
            raise ModelError(f"the weights lack {name}")
        self._left.remove(name)
        found = self._source.shape(name)
        if found != shape:
            raise ModelError(f"{name} has the shape {list(found)}, the model's config says {list(shape)}")
        self._bar.update()

    def has(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def finish(self, tied: bool) -> None:
        """Raises ModelError for tensors that were never read: they would change the model's outputs."""
        self._bar.close()
        left = {name for name in self._left if not name.endswith("rotary_emb.inv_freq")}  # computed from the config
        if tied:
            left.discard("lm_head.weight")  # a copy of the embedding
        left = {name for name in left if not self._may_be_unused(name)}
        if left:
            few = ", ".join(sorted(left)[:5])
            raise ModelError(f"the weights have {len(left)} tensors that this architecture does not know: {few}")
