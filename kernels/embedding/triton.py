"""Token embedding in Triton, for a contiguous weight."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["embedding", "launch"]


def embedding(weight_VM: Tensor, tokens_T: Tensor) -> Tensor:
    assert weight_VM.is_contiguous()
    model_dim, num_tokens = weight_VM.shape[1], tokens_T.shape[0]
    out_TM = weight_VM.new_empty((num_tokens, model_dim))
    if num_tokens:
        config = launch(model_dim, weight_VM.device)
        grid = num_tokens, triton.cdiv(model_dim, config["BLOCK_M"])
        _embedding[grid](weight_VM, tokens_T, out_TM, M=model_dim, **config)
    return out_TM


def launch(model_dim: int, device: torch.device) -> dict[str, int]:
    config = {"BLOCK_M": min(2048, triton.next_power_of_2(model_dim)), "num_warps": 4, "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"M={model_dim}", {})}


@triton.jit
def _embedding(weight, tokens, out, M: tl.constexpr, BLOCK_M: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    tl.store(out + row * M + m, tl.load(weight + tl.load(tokens + row) * M + m, mask=m < M), mask=m < M)
