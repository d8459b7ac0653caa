"""In Triton, for contiguous logits and bits. The operations on single entries are torch's own."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["allow_bits"]

BLOCK_V = 4096


def allow_bits(logits_RV: Tensor, bits_RW: Tensor) -> Tensor:
    logits_RV, bits_RW = logits_RV.contiguous(), bits_RW.contiguous()
    num_rows, vocab_size = logits_RV.shape
    out_RV = torch.empty_like(logits_RV)
    if num_rows:
        grid = num_rows, triton.cdiv(vocab_size, BLOCK_V)
        _allow_bits[grid](logits_RV, bits_RW, out_RV, V=vocab_size, W=bits_RW.shape[1], BLOCK_V=BLOCK_V)
    return out_RV


@triton.jit
def _allow_bits(logits, bits, out, V: tl.constexpr, W: tl.constexpr, BLOCK_V: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    word = tl.load(bits + row * W + token // 32, mask=token < V, other=0)
    logit = tl.load(logits + row * V + token, mask=token < V, other=0.0)
    allowed = ((word >> (token % 32)) & 1) != 0
    tl.store(out + row * V + token, tl.where(allowed, logit, -float("inf")), mask=token < V)
