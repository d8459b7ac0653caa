"""Logit soft capping in Triton, for contiguous logits, in place."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["launch", "soft_cap"]


def soft_cap(logits_RV: Tensor, cap: float) -> Tensor:
    assert logits_RV.is_contiguous()
    num_rows, vocab_size = logits_RV.shape
    if num_rows:
        config = launch(vocab_size, logits_RV.device)
        _soft_cap[num_rows, triton.cdiv(vocab_size, config["BLOCK_V"])](logits_RV, cap, V=vocab_size, **config)
    return logits_RV


def launch(vocab_size: int, device: torch.device) -> dict[str, int]:
    config = {"BLOCK_V": 2048, "num_warps": 4, "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"V={vocab_size}", {})}


@triton.jit
def _soft_cap(logits, cap, V: tl.constexpr, BLOCK_V: tl.constexpr):
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    at = logits + tl.program_id(0).to(tl.int64) * V + v
    x = tl.load(at, mask=v < V, other=0.0) / cap
    shrunk = tl.exp(tl.abs(x) * -2.0)  # never overflows
    tl.store(at, tl.where(x < 0, -cap, cap) * ((1.0 - shrunk) / (1.0 + shrunk)), mask=v < V)
