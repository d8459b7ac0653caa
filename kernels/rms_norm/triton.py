"""RMSNorm in Triton. One program for each row: its sum has one order in every batch."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["add_rms_norm", "launch"]


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight_M: Tensor | None,
    eps: float,
    x_weight_M: Tensor | None = None,
    x_scale: float = 1.0,
) -> Tensor:
    assert all(tensor is None or tensor.is_contiguous() for tensor in (x, residual, weight_M, x_weight_M))
    model_dim = x.shape[-1]
    out = torch.empty_like(x)
    if num_rows := x.numel() // model_dim:
        tensors = (x, residual, weight_M, x_weight_M, out)
        _add_rms_norm[num_rows,](*tensors, eps, x_scale, M=model_dim, **launch(model_dim, x.device))
    return out


def launch(model_dim: int, device: torch.device) -> dict[str, int]:
    block = triton.next_power_of_2(model_dim)
    config = {"num_warps": min(16, max(1, block // 512)), "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"M={model_dim}", {}), "BLOCK_M": block}


@triton.jit
def _add_rms_norm(x, residual, weight, x_weight, out, eps, x_scale, M: tl.constexpr, BLOCK_M: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * M
    m = tl.arange(0, BLOCK_M)
    added = _normed(tl.load(x + row + m, mask=m < M, other=0.0).to(tl.float32), x_weight, m, eps, M)
    total = tl.load(residual + row + m, mask=m < M, other=0.0) + added * x_scale
    tl.store(residual + row + m, total, mask=m < M)
    tl.store(out + row + m, _normed(total, weight, m, eps, M).to(out.dtype.element_ty), mask=m < M)


@triton.jit
def _normed(x, weight, m, eps, M: tl.constexpr):
    """x itself where there is no weight."""
    if weight is not None:
        scale = tl.rsqrt(tl.sum(x * x, 0) / M + eps)
        x = x * scale * tl.load(weight + m, mask=m < M, other=0.0).to(tl.float32)
    return x
