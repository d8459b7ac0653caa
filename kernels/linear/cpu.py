"""Linear layers in bfloat16 on CPU, in C: the weight packed once, every row summed alone and in order.

Supports bfloat16 weights only.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.native.compiler import Compiler
from kernels.native.recorder import NativeFunction, NativeLibrary
from kernels.native.row_product import BY_TILES, PLAIN, RowProduct
from kernels.native.weight_memory import PrivateMemory, WeightMemory

__all__ = ["build"]

PANEL = 64  # outputs that are packed together
TILE_INPUTS = 32  # inputs that AMX tiles take at once


def build(compiler: Compiler, memory: WeightMemory | None = None) -> Callable[..., "Linear"]:
    """Weights are packed to `memory`; None: memory of this process."""
    weight_memory = memory or PrivateMemory()
    library = compiler.load(Path(__file__).with_name("cpu.c"))
    library.linear.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 5
    library.linear.restype = None
    library.inputs_at_once.restype = ctypes.c_int64
    kind = {one.inputs_at_once: one for one in (Linear, QuadLinear, TiledLinear)}[library.inputs_at_once()]
    if kind is TiledLinear:
        library.linear_by_tiles.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 5
        library.linear_by_tiles.restype = None

    def linear(weight_OI: Tensor, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None) -> "Linear":
        return kind(library, weight_memory, weight_OI, bias_O, out_dtype or weight_OI.dtype)

    return linear


class Linear:
    """By products of bfloat16 pairs where the CPU has them, else by fused multiply-adds."""

    inputs_at_once = 2

    def __init__(
        self,
        library: NativeLibrary,
        memory: WeightMemory,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        out_dtype: torch.dtype,
    ) -> None:
        self._library = library
        self._num_out, self._num_in = num_out, num_in = weight_OI.shape
        self._missing = -num_in % self.inputs_at_once
        missing_out = -num_out % PANEL
        num_bytes = (num_out + missing_out) * (num_in + self._missing) * weight_OI.element_size()
        self._weight = memory.place(
            f"{type(self).__name__} {num_out} x {num_in}",
            num_bytes,
            lambda: self._panels(pad(weight_OI, (0, self._missing, 0, missing_out))),
        )
        self._bias = None if bias_O is None else bias_O.float()
        self._out_dtype = out_dtype

    def __call__(self, x_TI: Tensor) -> Tensor:
        if self._missing:
            x_TI = pad(x_TI, (0, self._missing))
        x_TI = x_TI.contiguous()
        out_TO = torch.empty((x_TI.shape[0], self._num_out), dtype=self._out_dtype)
        self._multiply(x_TI, out_TO)
        return out_TO

    def product(self) -> RowProduct:
        return self._product(self._library.linear, PLAIN, 0)

    def _product(self, function: NativeFunction, kind: int, scratch_bytes: int) -> RowProduct:
        return RowProduct(
            function,
            kind,
            self._weight.data_ptr(),
            0 if self._bias is None else self._bias.data_ptr(),
            self._num_in + self._missing,
            self._num_out,
            self._out_dtype == torch.float32,
            scratch_bytes,
        )

    @staticmethod
    def _panels(weight_OI: Tensor) -> Tensor:
        """[O, I] -> [panels, I / 2, 64, 2]"""
        return weight_OI.view(-1, PANEL, weight_OI.shape[1] // 2, 2).transpose(1, 2)

    def _multiply(self, x_TI: Tensor, out_TO: Tensor) -> None:
        self._library.linear(*self._pointers(x_TI, out_TO), *self._sizes(x_TI))

    def _pointers(self, x_TI: Tensor, out_TO: Tensor) -> tuple[int | None, ...]:
        bias = None if self._bias is None else self._bias.data_ptr()
        return x_TI.data_ptr(), self._weight.data_ptr(), bias, out_TO.data_ptr()

    def _sizes(self, x_TI: Tensor) -> tuple[int, ...]:
        return self._out_dtype == torch.float32, *x_TI.shape, self._num_out, torch.get_num_threads()


class QuadLinear(Linear):
    """By arm64's products of bfloat16 matrices."""

    inputs_at_once = 4

    @staticmethod
    def _panels(weight_OI: Tensor) -> Tensor:
        """[O, I] -> [panels, I / 4, 64, 4]"""
        return weight_OI.view(-1, PANEL, weight_OI.shape[1] // 4, 4).transpose(1, 2)


class TiledLinear(Linear):
    """By AMX tiles."""

    inputs_at_once = TILE_INPUTS

    @staticmethod
    def _panels(weight_OI: Tensor) -> Tensor:
        """[O, I] -> [half panels, I / 32, 2, 16 pairs, 16 outputs, 2]"""
        steps = weight_OI.shape[1] // TILE_INPUTS
        return weight_OI.view(-1, 2, 16, steps, 16, 2).permute(0, 3, 1, 4, 2, 5)

    def product(self) -> RowProduct:
        return self._product(self._library.linear_by_tiles, BY_TILES, 2 * (self._num_in + self._missing))

    def _multiply(self, x_TI: Tensor, out_TO: Tensor) -> None:
        tiles = torch.empty_like(x_TI)
        self._library.linear_by_tiles(*self._pointers(x_TI, out_TO), tiles.data_ptr(), *self._sizes(x_TI))
