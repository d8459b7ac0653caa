"""GEMV in Triton, a matrix times one row: what decoding of a single sequence waits for.

The matrix is read once, at the memory's speed: each program has some outputs, and adds up tiles of products in fp32.
An H100 reads 2.6 to 3.2 TB/s so where cuBLAS reads 2.0 to 2.8 (scripts/bench/results, 2026-11-26).
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["gemv", "launch"]


def gemv(x_1I: Tensor, weight_OI: Tensor, bias_O: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    """[1, O] in `out_dtype`. All of them are contiguous."""
    num_out, num_in = weight_OI.shape
    out_1O = torch.empty((1, num_out), dtype=out_dtype, device=x_1I.device)
    config = launch(num_out, num_in, weight_OI.device)
    _gemv[triton.cdiv(num_out, config["BLOCK_O"]),](
        x_1I, weight_OI, bias_O, out_1O, BIAS=bias_O is not None, NUM_OUT=num_out, NUM_IN=num_in, **config
    )
    return out_1O


def launch(num_out: int, num_in: int, device: torch.device) -> dict[str, int]:
    """STAGES of 1 read into registers, more of them ahead into shared memory."""
    tile = {"BLOCK_O": 2, "BLOCK_I": min(2048, triton.next_power_of_2(num_in))}
    config = {**tile, "STAGES": 1, "num_warps": 4, "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"gemv O={num_out} I={num_in}", {})}


@triton.jit
def _gemv(
    x, weight, bias, out,
    BIAS: tl.constexpr, NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """BLOCK_O outputs a program."""
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = tl.arange(0, BLOCK_I)
    weight_at = weight + o.to(tl.int64)[:, None] * NUM_IN + i[None, :]
    acc = tl.zeros([BLOCK_O, BLOCK_I], tl.float32)
    for base in tl.range(0, NUM_IN, BLOCK_I, num_stages=STAGES):
        if (NUM_IN % BLOCK_I == 0) & (NUM_OUT % BLOCK_O == 0):
            tile = tl.load(weight_at + base)
            row = tl.load(x + base + i)
        else:
            inside = base + i < NUM_IN
            tile = tl.load(weight_at + base, mask=(o < NUM_OUT)[:, None] & inside[None, :], other=0.0)
            row = tl.load(x + base + i, mask=inside, other=0.0)
        acc += tile.to(tl.float32) * row.to(tl.float32)[None, :]
    sums = tl.sum(acc, 1)
    if BIAS:
        sums += tl.load(bias + o, mask=o < NUM_OUT, other=0.0).to(tl.float32)
    tl.store(out + o, sums.to(out.dtype.element_ty), mask=o < NUM_OUT)
