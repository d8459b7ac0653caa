"""Group-quantized linear layers (4 and 8 bits) on CPU, in C: packed once, every row summed alone and in order.

Supports bfloat16 rows, and x86-64 with AMX (tiles.h), avx512_bf16 or AVX2 (int16.h), and arm64 (neon.h, fma.h).

With AMX weights are dequantized to bfloat16, rounded once, a block at a time: results are bitwise those of the linear
layer of the dequantized weight. (With offsets that needs factor * integer to be exact in fp32, as it is with the
factors of GGUF and with 16-bit ones: here the sum is rounded once, there the product as well.)

With avx512_bf16, and on arm64, nothing of the weight is rounded. A step of one row reads a third of what bfloat16
weights take, or half, and of many rows pays for the unpacking: on an EPYC of Zen 4, one thread, SmolLM2-135M's layers
take 0.3 to 0.4 of the time of bfloat16's with one row of 4 bits, 0.7 with 4, 1.1 with 8 and 16, 1.2 with hundreds; of
8 bits 0.5, 0.8, 1.3 and 1.2. Fused multiply-adds (fma.h: arm64 without bfloat16) round nothing either.

On x86-64 without bfloat16 (int16.h) products are of integers of 16 bits, to which a row is rounded by groups
(reference.py, `fixed_point`): all but inputs 2^7 times smaller than their group's largest one are exact. On an EPYC of
Zen 3 (AVX2), one thread beside other work, the matrix 1536 x 576 of 4 bits takes 53 us with one row, 305 with 16 and
1,220 with 64. Fused multiply-adds took 101, 460 and 1,570.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.native.compiler import Compiler
from kernels.native.recorder import NativeFunction, NativeLibrary
from kernels.native.row_product import QUANTIZED, QUANTIZED_HALF, RowProduct
from kernels.native.weight_memory import PrivateMemory, WeightMemory
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["GROUP", "PANEL", "IntegerQuantizedLinear", "QuantizedLinear", "build"]

PANEL = 64  # outputs that are packed together
GROUP = 32  # inputs that have a factor in the packed matrix; larger groups have the same one several times


def build(compiler: Compiler, memory: WeightMemory | None = None) -> "Callable[..., QuantizedLinear] | None":
    """None where this CPU lacks what it takes. Weights are packed to `memory`; None: memory of this process."""
    weight_memory = memory or PrivateMemory()
    library = compiler.load(Path(__file__).with_name("cpu.c"))
    if not library.is_supported():
        return None
    kind = KINDS[library.product_kind()]
    library.quantized_linear.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * (8 + kind.takes_half_scales)
    library.quantized_linear.restype = None
    if kind is TiledQuantizedLinear:
        library.quantized_linear_by_tiles.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 8
        library.quantized_linear_by_tiles.restype = None

    def quantized_linear(
        weight: GroupQuantized, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> QuantizedLinear:
        return kind(library, weight_memory, weight, bias_O, out_dtype or torch.bfloat16)

    return quantized_linear


class QuantizedLinear:
    """With the integers of 16 outputs looked up or converted as they are read."""

    takes_half_scales = True  # factors and offsets may stay fp16

    def __init__(
        self,
        library: NativeLibrary,
        memory: WeightMemory,
        weight: GroupQuantized,
        bias_O: Tensor | None,
        out_dtype: torch.dtype,
    ) -> None:
        self._library = library
        if not self.takes_half_scales:
            weight = weight.with_scales(torch.float32)
        self._num_out, self._num_in = weight.shape
        self._has_half_scales = weight.factors_OG.dtype == torch.float16
        self._bits, self._least, self._has_offsets = weight.bits, weight.least, weight.offsets_OG is not None
        self._weight = memory.place(
            f"{type(self).__name__} {self._num_out} x {self._num_in}, {weight.kind}, {weight.factors_OG.dtype}",
            _num_bytes(weight) + 1,  # a byte beyond the end may be read
            lambda: _packed(weight, self._codes(weight)),
        )
        self._bias = None if bias_O is None else bias_O.float()
        self._out_dtype = out_dtype

    def __call__(self, x_TI: Tensor) -> Tensor:
        x_TI = x_TI.contiguous()
        out_TO = torch.empty((x_TI.shape[0], self._num_out), dtype=self._out_dtype)
        bias = None if self._bias is None else self._bias.data_ptr()
        self._multiply(x_TI, x_TI.data_ptr(), self._weight.data_ptr(), bias, out_TO.data_ptr())
        return out_TO

    @staticmethod
    def _codes(weight: GroupQuantized) -> Tensor:
        """[panels, groups, bytes], as cpu.c draws them."""
        num_groups = weight.shape[1] // GROUP
        if weight.bits == 8:
            # [panels, 64, groups, pairs, 2] -> [panels, groups, pairs, 64, 2]
            wide = pad(weight.ints_OI, _missing(weight)).view(-1, PANEL, num_groups, GROUP // 2, 2)
            return wide.permute(0, 2, 3, 1, 4).flatten(2).view(torch.uint8)
        # [panels, 4, 16, groups, pairs, 2]: outputs c * 16 + j, a group's inputs by pairs
        nibbles = least_at_zero(weight).view(-1, 4, 16, num_groups, GROUP // 2, 2).permute(0, 3, 4, 2, 5, 1)
        return (nibbles[..., 0::2] | nibbles[..., 1::2] << 4).flatten(2)  # of [panels, groups, pairs, j, input, c]

    def product(self) -> RowProduct:
        kind = QUANTIZED_HALF if self.takes_half_scales else QUANTIZED
        return self._product(self._library.quantized_linear, 4 * (self._num_in // GROUP), kind)

    def _product(self, function: NativeFunction, scratch_bytes: int, kind: int = QUANTIZED) -> RowProduct:
        return RowProduct(
            function,
            kind,
            self._weight.data_ptr(),
            0 if self._bias is None else self._bias.data_ptr(),
            self._num_in,
            self._num_out,
            self._out_dtype == torch.float32,
            scratch_bytes,
            (self._bits, self._least, self._has_offsets, self._has_half_scales),
        )

    def _multiply(self, x_TI: Tensor, *pointers: int | None) -> None:
        x_sums = torch.empty((x_TI.shape[0], self._num_in // GROUP))
        half = self._has_half_scales
        self._library.quantized_linear(*pointers, x_sums.data_ptr(), *self._form(), half, *self._sizes(x_TI))

    def _form(self) -> tuple[int, ...]:
        return self._out_dtype == torch.float32, self._bits, self._least, self._has_offsets

    def _sizes(self, x_TI: Tensor) -> tuple[int, ...]:
        return *x_TI.shape, self._num_out, torch.get_num_threads()


class FmaQuantizedLinear(QuantizedLinear):
    """By fused multiply-adds."""

    takes_half_scales = False

    @staticmethod
    def _codes(weight: GroupQuantized) -> Tensor:
        """[panels, groups, bytes], as integer_products.h draws them."""
        return codes_by_quads(weight)

    def product(self) -> RowProduct:
        return self._product(self._library.quantized_linear, 4 * (self._num_in + self._num_in // GROUP))

    def _multiply(self, x_TI: Tensor, *pointers: int | None) -> None:
        scratch = torch.empty(x_TI.shape[0] * (self._num_in + self._num_in // GROUP))
        self._library.quantized_linear(*pointers, scratch.data_ptr(), *self._form(), *self._sizes(x_TI))


class IntegerQuantizedLinear(QuantizedLinear):
    """By products of integers, to which rows are rounded."""

    input_bytes = 2

    @staticmethod
    def _codes(weight: GroupQuantized) -> Tensor:
        """[panels, groups, bytes], as integer_products.h draws them."""
        return codes_by_quads(weight)

    def product(self) -> RowProduct:
        return self._product(self._library.quantized_linear, self._scratch_bytes, QUANTIZED_HALF)

    @property
    def _scratch_bytes(self) -> int:
        """Of a row: its integers, and what is known of each group."""
        return self.input_bytes * self._num_in + 16 * (self._num_in // GROUP)

    def _multiply(self, x_TI: Tensor, *pointers: int | None) -> None:
        scratch = torch.empty(x_TI.shape[0] * self._scratch_bytes, dtype=torch.uint8)
        half = self._has_half_scales
        self._library.quantized_linear(*pointers, scratch.data_ptr(), *self._form(), half, *self._sizes(x_TI))


class QuadQuantizedLinear(QuantizedLinear):
    """By arm64's products of bfloat16 matrices."""

    takes_half_scales = False

    @staticmethod
    def _codes(weight: GroupQuantized) -> Tensor:
        """[panels, groups, bytes], as neon.h draws them."""
        num_groups = weight.shape[1] // GROUP
        if weight.bits == 8:
            # [panels, 64, groups, quads, 4] -> [panels, groups, quads, 64, 4]
            wide = pad(weight.ints_OI, _missing(weight)).view(-1, PANEL, num_groups, GROUP // 4, 4)
            return wide.permute(0, 2, 3, 1, 4).flatten(2).view(torch.uint8)
        # [panels, runs, 2, 4, groups, quads, 4] -> [panels, groups, quads, runs, 4 outputs, 4 inputs, 2]
        runs = least_at_zero(weight).view(-1, PANEL // 8, 2, 4, num_groups, GROUP // 4, 4)
        nibbles = runs.permute(0, 4, 5, 1, 3, 6, 2)
        return (nibbles[..., 0] | nibbles[..., 1] << 4).flatten(2)

    def _multiply(self, x_TI: Tensor, *pointers: int | None) -> None:
        x_sums = torch.empty((x_TI.shape[0], self._num_in // GROUP))
        self._library.quantized_linear(*pointers, x_sums.data_ptr(), *self._form(), *self._sizes(x_TI))


class TiledQuantizedLinear(QuantizedLinear):
    """By AMX tiles, of the weight rounded to bfloat16."""

    takes_half_scales = False

    @staticmethod
    def _codes(weight: GroupQuantized) -> Tensor:
        """[panels, groups, bytes], as tiles.h draws them."""
        num_groups = weight.shape[1] // GROUP
        if weight.bits == 8:
            # [panels, 4, 16, groups, pairs, 2] -> [panels, groups, 4, pairs, 16, 2]
            wide = pad(weight.ints_OI, _missing(weight)).view(-1, PANEL // 16, 16, num_groups, GROUP // 2, 2)
            return wide.permute(0, 3, 1, 4, 2, 5).flatten(2).view(torch.uint8)
        # [panels, 4, 2, 8, groups, lines, 4 pairs, 2] -> [panels, groups, 4, lines, 8, 2, 4 pairs, 2]
        nibbles = least_at_zero(weight).view(-1, PANEL // 16, 2, 8, num_groups, 4, 4, 2).permute(0, 4, 1, 5, 3, 7, 6, 2)
        return (nibbles[..., 0] | nibbles[..., 1] << 4).flatten(2)

    def product(self) -> RowProduct:
        return self._product(self._library.quantized_linear_by_tiles, 2 * self._num_in)

    def _multiply(self, x_TI: Tensor, *pointers: int | None) -> None:
        tiles = torch.empty_like(x_TI)
        self._library.quantized_linear_by_tiles(*pointers, tiles.data_ptr(), *self._form(), *self._sizes(x_TI))


KINDS = (  # as cpu.c numbers them
    FmaQuantizedLinear,
    IntegerQuantizedLinear,
    QuantizedLinear,
    QuadQuantizedLinear,
    TiledQuantizedLinear,
)


def _missing(weight: GroupQuantized) -> tuple[int, int, int, int]:
    return 0, 0, 0, -weight.shape[0] % PANEL


def codes_by_quads(weight: GroupQuantized) -> Tensor:
    """[panels, groups, bytes], as integer_products.h draws them."""
    # [panels, 64, groups, quads, 4] -> [panels, groups, quads, 64, 4]
    quads = least_at_zero(weight).view(-1, PANEL, weight.shape[1] // GROUP, GROUP // 4, 4).permute(0, 2, 3, 1, 4)
    if weight.bits == 4:
        first, second = quads.chunk(2, dim=2)
        quads = first | second << 4
    return quads.flatten(2)


def least_at_zero(weight: GroupQuantized) -> Tensor:
    """Codes: the integers less the least one, as bytes, with rows of zeros up to a whole panel."""
    return pad((weight.ints_OI - weight.least).view(torch.uint8), _missing(weight))


def _num_bytes(weight: GroupQuantized) -> int:
    num_scales = 1 if weight.offsets_OG is None else 2
    record_bytes = PANEL * num_scales * weight.factors_OG.itemsize + PANEL * GROUP * weight.bits // 8
    return -(-weight.shape[0] // PANEL) * (weight.shape[1] // GROUP) * record_bytes


def _packed(weight: GroupQuantized, codes: Tensor) -> Tensor:
    """[panels, groups, bytes of a record]: factors, offsets, codes."""
    num_groups = weight.shape[1] // GROUP
    repeats = weight.group // GROUP

    def by_panel(of_groups_OG: Tensor) -> Tensor:
        repeated = of_groups_OG.repeat_interleave(repeats, dim=1)
        panels = pad(repeated, _missing(weight)).view(-1, PANEL, num_groups).transpose(1, 2)
        return panels.contiguous().view(torch.uint8)

    scales = [weight.factors_OG] if weight.offsets_OG is None else [weight.factors_OG, weight.offsets_OG]
    return torch.cat([*map(by_panel, scales), codes], dim=2)
