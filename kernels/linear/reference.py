"""A linear layer: a matrix that many batches are multiplied with. The reference."""

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

__all__ = ["Linear"]


class Linear:
    """x -> x @ weight.T + bias.

    weight_OI  [O, I]
    bias_O     [O] or None
    out_dtype  the weight's dtype if None; float32 where the caller wants no rounding of sums (an implementation whose
               library rounds them anyway widens afterwards)

    May keep the weight in another form; the caller drops its own.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None) -> None:
        self._weight_OI = weight_OI
        self._bias_O = bias_O
        self._out_dtype = out_dtype or weight_OI.dtype

    def __call__(self, x_TI: Tensor) -> Tensor:
        """x_TI [T, I] in the weight's dtype, T >= 1. Returns [T, O] in out_dtype, summed in fp32 or wider.

        A row's result does not depend on the other rows: the compiled one promises it bitwise. Here the library decides
        in which order it adds up, by CPU and by number of rows: in fp32 rows alone and in a batch were bitwise equal on
        AMD Zen 4 (MKL's AVX2 code), and are not on Intel with AMX, nor with MKL_CBWR=COMPATIBLE (its SSE2 code).
        """
        num_rows = x_TI.shape[0]
        if num_rows < 8 and x_TI.device.type == "cpu":  # few rows take another road through the library: on AMD up to 3
            x_TI = pad(x_TI, (0, 0, 0, 8 - num_rows))
        return linear(x_TI, self._weight_OI, self._bias_O)[:num_rows].to(self._out_dtype)
