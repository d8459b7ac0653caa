"""The indexer of sparse attention, in DeepSeek-V3.2's shape: right, and how fast."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from kernels.kernel_set import KernelSet
from kernels.paged_attention.spec import AttentionLayout
from kernels.sparse_indexer import reference
from scripts.bench.gpu.kernels import Case
from scripts.bench.gpu.timing import Work
from scripts.bench.gpu.units import Row

__all__ = ["check_indexer", "indexer_cases"]

BLOCK_SIZE = 16
HEADS, DIM, ROW = 64, 128, 704
TINY_HEADS, TINY_DIM, TINY_ROW = 5, 16, 40
SAME = 0.998  # of the chosen tokens; sums of another order part equal scores otherwise


def check_indexer(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Row]:
    top_k = 9 if tiny else 2048
    for lens, counts in [([30, 7], [3, 2])] if tiny else [([9000, 300, 2100], [1] * 3), ([3000, 64], [500, 64])]:
        inputs = _inputs(lens, counts, device, tiny)
        chosen, expected = kernels.choose_tokens(*inputs, top_k), reference.choose_tokens(*inputs, top_k)
        pairs = zip(chosen.tolist(), expected.tolist(), strict=True)
        share = min(len({*row} & {*best}) / len({*best}) for row, best in pairs)
        ok = share >= (0.8 if tiny else SAME)
        yield {"name": "index choice", "shape": f"{counts} of {lens}", "dtype": "bfloat16", "share": share, "ok": ok}


def indexer_cases(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    heads, dim = (TINY_HEADS, TINY_DIM) if tiny else (HEADS, DIM)
    loads = [(2, 33)] if tiny else [(1, 8192), (32, 8192), (1, 65536), (32, 65536)]
    for batch, context in loads:
        make = partial(_choose, kernels, ([context] * batch, [1] * batch), device, tiny)
        num_flops = 2 * batch * context * heads * dim
        yield Case("index choice", f"{batch} rows of {context}", make, 2 * batch * context * dim, num_flops)


def _choose(kernels: KernelSet, rows: tuple[list[int], list[int]], device: torch.device, tiny: bool) -> Work:
    inputs = _inputs(*rows, device, tiny)
    return lambda: kernels.choose_tokens(*inputs, 9 if tiny else 2048)


def _inputs(
    lens: list[int], counts: list[int], device: torch.device, tiny: bool
) -> tuple[Tensor, Tensor, Tensor, AttentionLayout]:
    """Queries, weights, a cache in shuffled blocks and its layout."""
    heads, dim, row = (TINY_HEADS, TINY_DIM, TINY_ROW) if tiny else (HEADS, DIM, ROW)
    widths = [-(-length // BLOCK_SIZE) for length in lens]
    order = torch.randperm(sum(widths), device=device, dtype=torch.int32)
    cache = torch.randn((len(order), 1, BLOCK_SIZE, row), device=device).bfloat16()
    table = torch.zeros((len(lens), max(widths)), dtype=torch.int32, device=device)
    for s, blocks in enumerate(torch.split(order, widths)):
        table[s, : len(blocks)] = blocks
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32, device=device)
    layout = AttentionLayout(starts, torch.tensor(lens, dtype=torch.int32, device=device), table)
    q = torch.randn((sum(counts), heads, dim), device=device).bfloat16()
    return q, torch.randn((sum(counts), heads), device=device), cache, layout
