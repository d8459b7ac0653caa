"""In Triton. One program for each row: its sum has one order in every batch. x and the residual are contiguous."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["add_rms_norm", "launch"]


def add_rms_norm(x: Tensor, residual: Tensor, weight_M: Tensor, eps: float) -> Tensor:
    assert x.is_contiguous() and residual.is_contiguous() and weight_M.is_contiguous()
    model_dim = x.shape[-1]
    out = torch.empty_like(x)
    if num_rows := x.numel() // model_dim:
        _add_rms_norm[num_rows,](x, residual, weight_M, out, eps, M=model_dim, **launch(model_dim, x.device))
    return out


def launch(model_dim: int, device: torch.device) -> dict[str, int]:
    block = triton.next_power_of_2(model_dim)
    config = {"num_warps": min(16, max(1, block // 512)), "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"M={model_dim}", {}), "BLOCK_M": block}


@triton.jit
def _add_rms_norm(x, residual, weight, out, eps, M: tl.constexpr, BLOCK_M: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * M
    m = tl.arange(0, BLOCK_M)
    total = tl.load(residual + row + m, mask=m < M, other=0.0) + tl.load(x + row + m, mask=m < M, other=0.0).to(
        tl.float32
    )
    tl.store(residual + row + m, total, mask=m < M)
    scale = tl.rsqrt(tl.sum(total * total, 0) / M + eps)
    scaled = total * scale * tl.load(weight + m, mask=m < M, other=0.0).to(tl.float32)
    tl.store(out + row + m, scaled.to(out.dtype.element_ty), mask=m < M)
