"""Mixture of experts in Triton, batch invariant. Rows are sorted by expert on the device: a CUDA graph can hold
it. An expert's rows are multiplied in tiles, whatever their number:

sorted rows   0 1 2 3 | 4 | 5 6 7 8 9 |     of experts 0, 2 and 3
tiles of 4       0    | 3 |  4     5  |     expert e has those from starts[e] // 4 + e on, as many as it needs or more
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from collections.abc import Iterable

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from kernels.experts.reference import Expert, ExpertActivation, activate
from kernels.gated_activation.triton import gated_activation
from kernels.launch import measured

__all__ = ["Experts", "launch", "route"]


def route(logits_TE: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    assert logits_TE.is_contiguous()
    num_rows, num_experts = logits_TE.shape
    ids_TK = torch.empty((num_rows, top_k), dtype=torch.int64, device=logits_TE.device)
    weights_TK = torch.empty((num_rows, top_k), dtype=torch.float32, device=logits_TE.device)
    if num_rows:
        blocks = {"BLOCK_E": triton.next_power_of_2(num_experts), "BLOCK_K": triton.next_power_of_2(top_k)}
        _route[num_rows,](
            logits_TE, ids_TK, weights_TK,
            E=num_experts, TOP_K=top_k, RENORMALISE=renormalise, **blocks, num_warps=1,
        )  # fmt: skip
    return ids_TK, weights_TK


class Experts:
    def __init__(self, experts: Iterable[Expert], activation: ExpertActivation = "silu") -> None:
        """Dense matrices; the model's dimensions are a multiple of 16."""
        gate_ups, downs, gate_up_biases, down_biases = zip(*map(_aligned, experts), strict=True)
        self._gate_up, self._gate_up_bias = torch.stack(gate_ups), _stacked(gate_up_biases)
        self._down, self._down_bias = torch.stack(downs), _stacked(down_biases)
        self._activation: ExpertActivation = activation
        assert self._gate_up.shape[2] % 16 == 0

    def __call__(self, x_TM: Tensor, ids_TK: Tensor, weights_TK: Tensor, added_TM: Tensor | None = None) -> Tensor:
        assert added_TM is None or added_TM.is_contiguous()
        num_rows, top_k = ids_TK.shape
        model_dim = x_TM.shape[1]
        out_TM = torch.empty_like(x_TM)
        if not num_rows:
            return out_TM
        sorted_ids, order = ids_TK.flatten().sort(stable=True)
        experts = torch.arange(len(self._down) + 1, device=x_TM.device)
        starts = torch.searchsorted(sorted_ids, experts, out_int32=True)
        rows = order, starts
        gate_up = _grouped_linear(x_TM.contiguous(), self._gate_up, self._gate_up_bias, *rows, x_TM.dtype, top_k)
        inner = activate(gate_up, self._activation, gated_activation)
        made = _grouped_linear(inner, self._down, self._down_bias, *rows, torch.float32, 0)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=x_TM.device)
        block = min(1024, triton.next_power_of_2(model_dim))
        _combine[num_rows, triton.cdiv(model_dim, block)](
            made, places, starts, weights_TK.contiguous(), added_TM, out_TM,
            E=len(self._down), M=model_dim, TOP_K=top_k, BLOCK_M=block, num_warps=4,
        )  # fmt: skip
        return out_TM


def _aligned(expert: Expert) -> Expert:
    """With inner dimensions of zeros up to a multiple of 16: rows that are not aligned cannot be copied aside."""
    assert isinstance(expert.gate_up, Tensor) and isinstance(expert.down, Tensor)
    ffn_dim = expert.down.shape[1]
    if not (more := -ffn_dim % 16):
        return expert
    bias = expert.gate_up_bias
    return Expert(
        pad(expert.gate_up.unflatten(0, (2, ffn_dim)), (0, 0, 0, more)).flatten(0, 1),
        pad(expert.down, (0, more)),
        None if bias is None else pad(bias.unflatten(0, (2, ffn_dim)), (0, more)).flatten(),
        expert.down_bias,
    )


def _stacked(biases: tuple[Tensor | None, ...]) -> Tensor | None:
    given = [bias for bias in biases if bias is not None]
    return torch.stack(given) if given else None


def _grouped_linear(
    x: Tensor,
    weight_EOI: Tensor,
    bias_EO: Tensor | None,
    order: Tensor,
    starts: Tensor,
    out_dtype: torch.dtype,
    top_k: int,
) -> Tensor:
    """[R, O]: sorted row r times its expert's matrix. x has these rows, or with top_k row order[r] // top_k for r."""
    num_experts, num_out, num_in = weight_EOI.shape
    num_rows = len(order)
    out = torch.empty((num_rows, num_out), dtype=out_dtype, device=x.device)
    config = launch(num_out, num_in, x.dtype == torch.float32, x.device)
    grid = num_rows // config["BLOCK_T"] + num_experts, triton.cdiv(num_out, config["BLOCK_O"])
    _multiply[grid](
        x, weight_EOI, bias_EO, order, starts, out, E=num_experts, NUM_OUT=num_out, NUM_IN=num_in, TOP_K=top_k, **config
    )
    return out


def launch(num_out: int, num_in: int, wide: bool, device: torch.device) -> dict[str, int]:
    """`wide` is fp32. The tile follows from the matrix, never from how many rows there are."""
    config = {"BLOCK_T": 64, "BLOCK_O": 64, "BLOCK_I": 32 if wide else 64, "num_warps": 4}
    config["num_stages"] = 3 if wide else 4
    return {**config, **({} if wide else measured(__file__, device).get(f"O={num_out} I={num_in}", {}))}


@triton.jit
def _route(
    logits, ids, weights,
    E: tl.constexpr, TOP_K: tl.constexpr, RENORMALISE: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One row: the best expert is taken TOP_K times, and left out from then on."""
    row = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    logit = tl.load(logits + row * E + e, mask=e < E, other=-float("inf"))
    share = tl.exp(logit - tl.max(logit, 0))
    share = share / tl.sum(share, 0)
    left = tl.where(e < E, share, -1.0)
    k = tl.arange(0, BLOCK_K)
    taken = tl.zeros([BLOCK_K], tl.int32)
    weight = tl.zeros([BLOCK_K], tl.float32)
    for place in range(TOP_K):
        best = tl.max(left, 0)
        first = tl.min(tl.where(left == best, e, BLOCK_E), 0)
        taken = tl.where(k == place, first, taken)
        weight = tl.where(k == place, best, weight)
        left = tl.where(e == first, -1.0, left)
    if RENORMALISE:
        weight = weight / tl.sum(weight, 0)
    tl.store(ids + row * TOP_K + k, taken.to(tl.int64), mask=k < TOP_K)
    tl.store(weights + row * TOP_K + k, weight, mask=k < TOP_K)


@triton.jit
def _multiply(
    x, weight, bias, order, starts, out,
    E: tl.constexpr, NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr, TOP_K: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """One tile of the output: [tile of rows, tile of outputs]. Tiles of rows run together, and share a matrix's."""
    tile = tl.program_id(0)
    low = 0
    high = E
    while high - low > 1:  # the last expert whose first tile is not after this one
        middle = (low + high) // 2
        if tl.load(starts + middle) // BLOCK_T + middle <= tile:
            low = middle
        else:
            high = middle
    start = tl.load(starts + low)
    count = tl.load(starts + low + 1) - start
    first = (tile - (start // BLOCK_T + low)) * BLOCK_T
    if first >= count:
        return
    t = tl.arange(0, BLOCK_T)
    row = start + first + t
    is_row = first + t < count
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = tl.arange(0, BLOCK_I)
    source = row.to(tl.int64)
    if TOP_K > 0:
        source = tl.load(order + row, mask=is_row, other=0) // TOP_K
    x_at = x + source[:, None] * NUM_IN + i[None, :]
    weight_at = weight + (o.to(tl.int64) + low * NUM_OUT)[None, :] * NUM_IN + i[:, None]
    is_out = (o < NUM_OUT)[None, :]
    acc = tl.zeros([BLOCK_T, BLOCK_O], tl.float32)
    for base in range(0, NUM_IN, BLOCK_I):
        if NUM_IN % BLOCK_I == 0:
            x_tile = tl.load(x_at + base, mask=is_row[:, None], other=0.0)
            weight_tile = tl.load(weight_at + base, mask=is_out, other=0.0)
        else:
            x_tile = tl.load(x_at + base, mask=is_row[:, None] & (base + i < NUM_IN)[None, :], other=0.0)
            weight_tile = tl.load(weight_at + base, mask=is_out & (base + i < NUM_IN)[:, None], other=0.0)
        acc = tl.dot(x_tile, weight_tile, acc, input_precision="tf32x3")
    if bias is not None:
        acc += tl.load(bias + low * NUM_OUT + o, mask=o < NUM_OUT, other=0.0).to(tl.float32)[None, :]
    at = row.to(tl.int64)[:, None] * NUM_OUT + o[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=is_row[:, None] & is_out)


@triton.jit
def _combine(
    made, places, starts, weights, added, out,
    E: tl.constexpr, M: tl.constexpr, TOP_K: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Some columns of one row: its experts' results, the best expert's first. Rows that are no expert's come last."""
    row = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros([BLOCK_M], tl.float32)
    end = tl.load(starts + E)
    for k in range(TOP_K):
        place = tl.load(places + row * TOP_K + k)
        one = tl.load(made + place * M + m, mask=(m < M) & (place < end), other=0.0)
        total += tl.load(weights + row * TOP_K + k) * one
    if added is not None:
        total += tl.load(added + row * M + m, mask=m < M, other=0.0).to(tl.float32)
    tl.store(out + row * M + m, total.to(out.dtype.element_ty), mask=m < M)
