"""Sums of squares in Triton, for contiguous tensors. One program for each row: one order in every batch."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["launch", "square_sums"]


def square_sums(qkv_TX: Tensor, num_queries: int, num_keys: int) -> Tensor:
    assert qkv_TX.is_contiguous()
    num_rows, width = qkv_TX.shape
    out_T2 = torch.empty((num_rows, 2), dtype=torch.float32, device=qkv_TX.device)
    if num_rows:
        sizes = {"WIDTH": width, "QUERIES": num_queries, "KEYS": num_keys}
        _square_sums[num_rows, 2](qkv_TX, out_T2, **sizes, **launch(num_queries, qkv_TX.device))
    return out_T2


def launch(num_queries: int, device: torch.device) -> dict[str, int]:
    block = min(8192, triton.next_power_of_2(num_queries))
    config = {"BLOCK": block, "num_warps": min(16, max(1, block // 512)), "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"Q={num_queries}", {})}


@triton.jit
def _square_sums(qkv, out, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr):
    """[row, queries or keys]"""
    row = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    start = which * QUERIES
    count = tl.where(which == 0, QUERIES, KEYS)
    sums = tl.zeros([BLOCK], tl.float32)
    for base in range(0, count, BLOCK):
        i = base + tl.arange(0, BLOCK)
        x = tl.load(qkv + row * WIDTH + start + i, mask=i < count, other=0.0).to(tl.float32)
        sums += x * x
    tl.store(out + row * 2 + which, tl.sum(sums, 0))
