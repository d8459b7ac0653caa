"""Correctness of kernels that some model families need: other norms, gates, soft caps, mixture of experts."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kernels.experts import reference as experts_reference
from kernels.gated_activation import reference as gate_reference
from kernels.kernel_set import KernelSet
from kernels.linear.reference import Linear
from kernels.rms_norm import reference as norm_reference
from kernels.soft_cap import reference as cap_reference
from kernels.square_sums import reference as squares_reference

__all__ = ["check_families"]

Compare = Callable[[str, str, torch.dtype, Tensor, Tensor], dict[str, Any]]


def check_families(
    kernels: KernelSet, dtype: torch.dtype, device: torch.device, tiny: bool, compare: Compare
) -> Iterator[dict[str, Any]]:
    """`compare` makes a row of an operation, a shape, a dtype, what came out and what should have."""
    num, dim = (3, 96) if tiny else (1000, 5376)
    x = torch.randn((num, dim), device=device, dtype=dtype)
    weight, residual = torch.rand(dim, device=device), torch.randn((num, dim), device=device)
    for name, weights in (("of what is added too", (weight, weight)), ("of what is added alone", (None, weight))):
        options = weights[0], 1e-6, weights[1], 0.22
        expected = norm_reference.add_rms_norm(x.float(), residual.clone(), *options)
        out = kernels.add_rms_norm(x, residual.clone(), *options)
        yield compare(f"add_rms_norm {name}", f"{num} x {dim}", dtype, out, expected.double())
    gate_up = torch.randn((num, 2 * dim), device=device, dtype=dtype) * 4
    for kind in ("gelu_tanh", "clamped"):
        expected = gate_reference.gated_activation(gate_up.float(), kind).double()
        yield compare(kind, f"{num} x {dim}", dtype, kernels.gated_activation(gate_up, kind), expected)
    sums = squares_reference.square_sums(gate_up.double(), dim, dim // 4).double()
    yield compare("square_sums", f"{num} x {dim}", torch.float32, kernels.square_sums(gate_up, dim, dim // 4), sums)
    logits = torch.randn((4, 2000 if tiny else 256_000), device=device) * 40
    capped = cap_reference.soft_cap(logits.double(), 30.0)
    shape = f"4 x {logits.shape[1]}"
    yield compare("soft_cap", shape, torch.float32, kernels.soft_cap(logits.clone(), 30.0), capped)
    yield from _experts(kernels, dtype, device, tiny, compare)


def _wide_linear(weight_OI: Tensor, bias_O: Tensor, out_dtype: torch.dtype | None = None) -> Linear:
    return Linear(weight_OI.float(), bias_O.float(), out_dtype)


def _experts(
    kernels: KernelSet, dtype: torch.dtype, device: torch.device, tiny: bool, compare: Compare
) -> Iterator[dict[str, Any]]:
    num_experts, top_k, dim, ffn_dim = (6, 2, 32, 16) if tiny else (128, 8, 2048, 768)
    num = 9 if tiny else 500
    shapes = (2 * ffn_dim, dim), (dim, ffn_dim), (2 * ffn_dim,), (dim,)
    all_experts = [
        experts_reference.Expert(
            *(torch.randn(shape, device=device, dtype=dtype) * shape[-1] ** -0.5 for shape in shapes)
        )
        for _ in range(num_experts)
    ]
    x = torch.randn((num, dim), device=device, dtype=dtype)
    logits = torch.randn((num, num_experts), device=device)
    ids, weights = kernels.route(logits, top_k, True)
    expected_ids, expected_weights = experts_reference.route(logits, top_k, True)
    shape = f"{num} rows, {top_k} of {num_experts}"
    row = compare("route", shape, torch.float32, weights, expected_weights.double())
    yield {**row, "ok": row["ok"] and torch.equal(ids, expected_ids)}
    experts = kernels.experts(all_experts)
    out = experts(x, ids, weights)
    wide = experts_reference.Experts(all_experts, linear=_wide_linear)
    row = compare("experts", f"{shape} x {dim} x {ffn_dim}", dtype, out, wide(x.float(), ids, weights).double())
    alone = torch.cat([experts(x[r : r + 1], ids[r : r + 1], weights[r : r + 1]) for r in range(3)])
    same = torch.equal(alone, out[:3])
    yield {**row, "batch_invariant": same, "ok": row["ok"] and same}
