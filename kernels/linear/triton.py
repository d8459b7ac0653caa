"""Linear layers in Triton, batch invariant: a row's sum has one order, however many rows there are and wherever it
stands.

The tile follows from the weight's shape, never from the number of rows; one program adds up all of a sum. Whole tiles
are computed for a single row too: that is the price.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from kernels.launch import measured

__all__ = ["Linear", "launch"]


class Linear:
    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None) -> None:
        self._odd = -weight_OI.shape[1] % 16  # rows that are not aligned cannot be copied aside, and spill registers
        self._weight_OI = pad(weight_OI, (0, self._odd)).contiguous()
        self._bias_O = bias_O
        self._out_dtype = out_dtype or weight_OI.dtype
        num_out, num_in = self._weight_OI.shape
        self._launch = launch(num_out, num_in, weight_OI.dtype == torch.float32, weight_OI.device)

    def __call__(self, x_TI: Tensor) -> Tensor:
        num_out, num_in = self._weight_OI.shape
        num_rows = x_TI.shape[0]
        assert x_TI.dtype == self._weight_OI.dtype
        x_TI = pad(x_TI, (0, self._odd)).contiguous() if self._odd else x_TI.contiguous()
        out_TO = torch.empty((num_rows, num_out), dtype=self._out_dtype, device=x_TI.device)
        config = self._launch
        num_tiles = triton.cdiv(num_rows, config["BLOCK_T"]) * triton.cdiv(num_out, config["BLOCK_O"])
        _linear[num_tiles,](
            x_TI, self._weight_OI, self._bias_O, out_TO, num_rows,
            BIAS=self._bias_O is not None, NUM_OUT=num_out, NUM_IN=num_in, **config,
        )  # fmt: skip
        return out_TO


def launch(num_out: int, num_in: int, wide: bool, device: torch.device) -> dict[str, int]:
    """`wide` is fp32. Narrower tiles where there are few outputs: a batch of few rows should still fill the device."""
    tile = {"BLOCK_T": 64, "BLOCK_O": 128 if num_out >= 8192 and not wide else 64, "BLOCK_I": 32 if wide else 64}
    config = {**tile, "GROUP_T": 8, "num_warps": 4, "num_stages": 3 if wide else 4}
    return {**config, **({} if wide else measured(__file__, device).get(f"O={num_out} I={num_in}", {}))}


@triton.jit(do_not_specialize=["num_rows"])  # one code for every number of rows
def _linear(
    x, weight, bias, out, num_rows,
    BIAS: tl.constexpr, NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, GROUP_T: tl.constexpr,
):  # fmt: skip
    """One tile of the output. Programs that run together share what they read: GROUP_T tiles of rows, then the next
    tile of outputs.
    """
    tiles_t = tl.cdiv(num_rows, BLOCK_T)
    tiles_o: tl.constexpr = (NUM_OUT + BLOCK_O - 1) // BLOCK_O
    tile = tl.program_id(0)
    first_t = tile // (GROUP_T * tiles_o) * GROUP_T
    group_t = tl.minimum(tiles_t - first_t, GROUP_T)
    inside = tile % (GROUP_T * tiles_o)
    t = (first_t + inside % group_t) * BLOCK_T + tl.arange(0, BLOCK_T)
    o = inside // group_t * BLOCK_O + tl.arange(0, BLOCK_O)
    i = tl.arange(0, BLOCK_I)
    x_at = x + t.to(tl.int64)[:, None] * NUM_IN + i[None, :]
    weight_at = weight + o.to(tl.int64)[None, :] * NUM_IN + i[:, None]
    is_row, is_out = (t < num_rows)[:, None], (o < NUM_OUT)[None, :]
    acc = tl.zeros([BLOCK_T, BLOCK_O], tl.float32)
    for base in range(0, NUM_IN, BLOCK_I):
        if NUM_IN % BLOCK_I == 0:
            x_tile = tl.load(x_at + base, mask=is_row, other=0.0)
            weight_tile = tl.load(weight_at + base, mask=is_out, other=0.0)
        else:
            x_tile = tl.load(x_at + base, mask=is_row & (base + i < NUM_IN)[None, :], other=0.0)
            weight_tile = tl.load(weight_at + base, mask=is_out & (base + i < NUM_IN)[:, None], other=0.0)
        acc = tl.dot(x_tile, weight_tile, acc, input_precision="tf32x3")
    if BIAS:
        acc += tl.load(bias + o, mask=o < NUM_OUT, other=0.0).to(tl.float32)[None, :]
    at = t.to(tl.int64)[:, None] * NUM_OUT + o[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=is_row & is_out)
