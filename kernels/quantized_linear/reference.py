"""A group-quantized linear layer: integers of 4 or 8 bits in groups with scales. The reference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.linear.reference import Linear

__all__ = ["GroupQuantized", "QuantizedLinear", "concatenate", "fake_quantize", "fixed_point"]

GROUP = 32  # inputs of a row that are rounded with one scale


@dataclass(frozen=True)
class GroupQuantized:
    """weight = factor * integer + offset. Neighbouring inputs of an output share a factor and an offset: a group.

    ints_OI     [O, I] int8, in [least, least + 2^bits); of 8 bits all there are
    factors_OG  [O, G] fp32, or fp16 as a checkpoint has them; a group has I / G inputs, a multiple of 32
    offsets_OG  the same in the same dtype, or None: all 0
    """

    ints_OI: Tensor
    factors_OG: Tensor
    offsets_OG: Tensor | None
    least: int
    bits: int = 4

    @property
    def shape(self) -> torch.Size:
        return self.ints_OI.shape

    @property
    def group(self) -> int:
        """Inputs that share a factor."""
        return self.shape[1] // self.factors_OG.shape[1]

    def dense(self) -> Tensor:
        """[O, I] fp32."""
        wide = self.with_scales(torch.float32) if self.factors_OG.dtype == torch.float16 else self
        weight = self.ints_OI.view(*self.factors_OG.shape, -1) * wide.factors_OG[:, :, None]
        return (weight if wide.offsets_OG is None else weight + wide.offsets_OG[:, :, None]).view(self.shape)

    def scaled(self, factor: float) -> "GroupQuantized":
        """The weight multiplied by a number, in fp32."""
        wide = self.with_scales(torch.float32)
        offsets = None if wide.offsets_OG is None else wide.offsets_OG * factor
        return replace(wide, factors_OG=wide.factors_OG * factor, offsets_OG=offsets)

    def with_scales(self, dtype: torch.dtype) -> "GroupQuantized":
        """With factors and offsets of another dtype."""
        offsets = None if self.offsets_OG is None else self.offsets_OG.to(dtype)
        return replace(self, factors_OG=self.factors_OG.to(dtype), offsets_OG=offsets)

    def to(self, device: torch.device) -> "GroupQuantized":
        offsets = None if self.offsets_OG is None else self.offsets_OG.to(device)
        return replace(self, ints_OI=self.ints_OI.to(device), factors_OG=self.factors_OG.to(device), offsets_OG=offsets)

    def rows(self, index: Tensor | slice) -> "GroupQuantized":
        offsets = None if self.offsets_OG is None else self.offsets_OG[index]
        return replace(self, ints_OI=self.ints_OI[index], factors_OG=self.factors_OG[index], offsets_OG=offsets)

    def columns(self, start: int, stop: int) -> "GroupQuantized | None":
        """None where a group would be cut."""
        if start % self.group or stop % self.group:
            return None
        groups = slice(start // self.group, stop // self.group)
        offsets = None if self.offsets_OG is None else self.offsets_OG[:, groups]
        return replace(
            self, ints_OI=self.ints_OI[:, start:stop], factors_OG=self.factors_OG[:, groups], offsets_OG=offsets
        )

    def select_columns(self, index: Tensor) -> "GroupQuantized | None":
        """index  [I], a permutation. None where the columns of a group do not stay together."""
        whole_groups = index.view(-1, self.group)
        groups = whole_groups[:, 0] // self.group
        if not torch.equal(whole_groups, groups[:, None] * self.group + torch.arange(self.group)):
            return None
        offsets = None if self.offsets_OG is None else self.offsets_OG[:, groups]
        return replace(self, ints_OI=self.ints_OI[:, index], factors_OG=self.factors_OG[:, groups], offsets_OG=offsets)

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """What matrices that are stacked must have in common."""
        return self.bits, self.least, self.group, self.offsets_OG is None

    @staticmethod
    def stack(parts: "Sequence[GroupQuantized]") -> "GroupQuantized":
        """One below the other; all of one kind."""
        assert len({part.kind for part in parts}) == 1
        if len({part.factors_OG.dtype for part in parts}) > 1:
            parts = [part.with_scales(torch.float32) for part in parts]
        offsets = [part.offsets_OG for part in parts if part.offsets_OG is not None]
        return GroupQuantized(
            concatenate([part.ints_OI for part in parts]),
            concatenate([part.factors_OG for part in parts]),
            concatenate(offsets) if offsets else None,
            parts[0].least,
            parts[0].bits,
        )


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """One below the other. For those without numbers (device meta) torch would import its compiler, for a second."""
    if parts[0].device.type == "meta":
        return parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    return torch.cat(list(parts))


class QuantizedLinear:
    """x -> x @ weight.T + bias, of a weight that is not rounded; an implementation that rounds it to bfloat16 says so.

    bias_O     [O] or None
    out_dtype  of what it returns; x's if None
    """

    def __init__(
        self, weight: GroupQuantized, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> None:
        self._linear = Linear(weight.dense(), None if bias_O is None else bias_O.float())
        self._out_dtype = out_dtype

    def __call__(self, x_TI: Tensor) -> Tensor:
        """x_TI [T, I], T >= 1. Returns [T, O], summed in fp32; a row's result depends on that row alone."""
        return self._linear(x_TI.float()).to(self._out_dtype or x_TI.dtype)


def fake_quantize(x_TI: Tensor) -> Tensor:
    """x as the integer kernels see it: 8 bits with a scale for each row and 32 inputs, the largest one 127 (llama.cpp's
    Q8_0). [T, I] fp32."""
    x_TGI = x_TI.float().view(x_TI.shape[0], -1, GROUP)
    largest = x_TGI.abs().amax(-1, keepdim=True)
    # 127 / largest in one division: torch takes a number by a tensor as its reciprocal times the number
    inverse = torch.where(largest > 1e-30, torch.full_like(largest, 127) / largest, torch.zeros(()))
    return ((x_TGI * inverse).round() * (largest / 127)).view(x_TI.shape)


def fixed_point(x_TI: Tensor) -> Tensor:
    """x as int16.h sees it: integers with a power of two for each row and 32 inputs, by which the largest one has 15
    bits. Of bfloat16 only those are rounded that are 2^7 times smaller than that. [T, I] fp32."""
    x_TGI = x_TI.float().view(x_TI.shape[0], -1, GROUP)
    _, exponent = torch.frexp(x_TGI.abs().amax(-1, keepdim=True))  # the largest is in [2^(exponent - 1), 2^exponent)
    return torch.ldexp(torch.ldexp(x_TGI, 15 - exponent).round(), exponent - 15).view(x_TI.shape)
