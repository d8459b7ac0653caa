"""Packed linear layers as data, for compiled kernels that call them for rows of their own choice: row_product.h."""

from typing import NamedTuple, Protocol

from kernels.native.recorder import NativeFunction

__all__ = ["BY_TILES", "PLAIN", "QUANTIZED", "QUANTIZED_HALF", "HasProduct", "RowProduct"]

# the arguments that a layer's function takes, as row_product.h has them
PLAIN, BY_TILES, QUANTIZED, QUANTIZED_HALF = range(4)


class RowProduct(NamedTuple):
    """Addresses are valid as long as the layer lives."""

    function: NativeFunction
    kind: int
    weight: int  # address
    bias: int  # address; 0: none
    num_in: int  # with what inputs are padded by, by zeros
    num_out: int
    out_is_float: bool
    scratch_bytes: int  # of each row
    form: tuple[int, int, bool, bool] = (0, 0, False, False)  # bits, least integer, whether offsets, fp16 scales

    @property
    def fields(self) -> list[int]:
        """As row_product.h has them."""
        _, kind, weight, bias, num_in, num_out, out_is_float, _, form = self
        return [self.function.address, kind, weight, bias, num_in, num_out, int(out_is_float), *map(int, form)]


class HasProduct(Protocol):
    """A packed linear layer."""

    def product(self) -> RowProduct: ...
