"""Mixture-of-experts checkpoints with all experts of a layer in one tensor.

    layout        gate_up_proj    down_proj
    interleaved   [E, M, 2 F]     [E, F, M]   gpt-oss: columns gate 0, up 0, gate 1, up 1, ...
    halves        [E, M, 2 F]     [E, F, M]   Llama 4: the gate's columns, then those of up
    rows          [E, 2 F, M]     [E, M, F]   Granite: the gate's rows, then those of up

with gate_up_proj_bias [E, 2 F] and down_proj_bias [E, M] where there are biases. gpt-oss in MXFP4 has them transposed,
in groups of 32 inputs: NAME_blocks [E, O, G, 16] uint8, two numbers of 4 bits a byte, the first in its low half, and
NAME_scales [E, O, G] uint8: E8M0, the power of 2 that multiplies a group, plus 127. In float8 the layout is `rows`,
with NAME_scale_inv [E, O / B, I / B] of blocks, or [E, 1, 1] of whole matrices.
"""

import torch
from torch import Tensor

from engine.checkpoint.dequantize import MXFP4_GROUP, dequantize_mxfp4
from engine.checkpoint.matrix import Matrix, cut
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource
from engine.errors import ModelError

__all__ = ["SeparateExperts"]

STACKS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
KINDS = {"_bias": "bias", "_scale_inv": "weight_scale_inv"}  # of tensors beside a stack; else it is the weight
UNREAD = "_activation_scale"  # activations stay as they are


class SeparateExperts:
    """Gives each expert's matrices names of their own; other tensors pass unchanged.

    MXFP4 is sent to the device as it is, and dequantized there. The rows of the expert read last are kept, since its
    gate and up projections are read one after the other.
    """

    def __init__(self, source: TensorSource, device: torch.device, layout: str) -> None:
        """`layout` as above."""
        self._source = source
        self._layout = layout
        self._device = device
        self._last: tuple[str, int, Tensor] | None = None  # stack, expert, its rows
        self._places: dict[str, tuple[str, int, int]] = {}  # stack, expert, which of its interleaved matrices
        self._hidden: set[str] = set()
        for name in source.names():
            stem, _, last = name.rpartition(".mlp.experts.")
            stack = next((stack for stack in STACKS if last.startswith(stack)), "")
            suffix = last.removeprefix(stack)
            if not stem or not stack or suffix not in ("", "_blocks", "_scales", UNREAD, *KINDS):
                continue
            self._hidden.add(name)
            if suffix in ("_scales", UNREAD):
                continue
            kind = KINDS.get(suffix, "weight")
            if suffix == "_scale_inv":
                self._check_scales(name, name.removesuffix(suffix))
            for expert in range(source.shape(name)[0]):
                for which, matrix in enumerate(STACKS[stack]):
                    own = f"{stem}.mlp.experts.{expert}.{matrix}.{kind}"
                    self._places[own] = name, expert, which

    def _check_scales(self, name: str, stack: str) -> None:
        """Blocks must not reach from the gate into up."""
        (_, rows, columns), (_, num_out, _) = self._source.shape(name), self._source.shape(stack)
        is_whole = (rows, columns) == (1, 1) or ".gate_up_proj" not in name or num_out % rows == 0 == rows % 2
        if self._layout != "rows" or not is_whole:
            raise ModelError(f"{name}: float8 experts are supported in whole blocks of rows, not as they are here")

    def names(self) -> set[str]:
        return self._source.names() - self._hidden | set(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._places:
            return self._source.shape(name)
        stack, _, _ = self._places[name]
        _, *shape = self._source.shape(stack)
        interleaved = len(STACKS["gate_up_proj"]) if ".gate_up_proj" in stack and shape != [1, 1] else 1
        if len(shape) == 1:
            return (shape[0] // interleaved,)
        if stack.endswith("_blocks"):
            num_out, num_in = shape[0], shape[1] * MXFP4_GROUP
        else:
            num_out, num_in = shape if self._layout == "rows" else (shape[1], shape[0])
        return num_out // interleaved, num_in

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        if name not in self._places:
            return self._source.read(name, part)
        stack, expert, which = self._places[name]
        if self._last is None or self._last[:2] != (stack, expert):
            self._last = stack, expert, self._rows(stack, Shard(0, expert, expert + 1))
        rows = self._last[2]
        if which or ".gate_up_proj" not in stack:
            self._last = None
        own = cut(self._one_of_two(rows, which) if ".gate_up_proj" in stack else rows, part)
        assert isinstance(own, Tensor)
        return own.contiguous()

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        if name in self._places:
            return self.read(name, part)
        return self._source.read_matrix(name, part)

    def _one_of_two(self, rows: Tensor, which: int) -> Tensor:
        """The rows of gate (0) or up (1). A single scale is that of both."""
        if rows.shape == (1, 1):
            return rows
        return rows[which::2] if self._layout == "interleaved" else rows.chunk(2)[which]

    def _rows(self, stack: str, expert: Shard) -> Tensor:
        """[O, I] of a matrix, [O] of a bias."""
        tensor = self._source.read(stack, expert)[0]
        if not stack.endswith("_blocks"):
            return tensor if tensor.dim() == 1 or self._layout == "rows" else tensor.T
        scales_name = stack.removesuffix("_blocks") + "_scales"
        if scales_name not in self._hidden:
            raise ModelError(f"the weights lack {scales_name}")
        scales = self._source.read(scales_name, expert)[0]
        return dequantize_mxfp4(tensor.to(self._device), scales.to(self._device))
