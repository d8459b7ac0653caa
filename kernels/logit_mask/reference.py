"""Logit masks and bias: grammar mask, allowed and banned tokens, logit_bias. The reference.

`rows_E`, `tokens_E` name single logits: entry e is logit [rows_E[e], tokens_E[e]]. No entry may appear twice.
"""

import torch
from torch import Tensor

__all__ = ["add_bias", "allow_bits", "allow_only", "forbid"]


def allow_bits(logits_RV: Tensor, bits_RW: Tensor) -> Tensor:
    """-inf wherever a grammar's bit is 0.

    logits_RV  [R, V] fp32
    bits_RW    [R, ceil(V / 32)] int32   bit t % 32 of word t // 32 is token t; 1 means allowed, all ones is off
    """
    shifts = torch.arange(32, dtype=torch.int32, device=bits_RW.device)
    allowed_RV = ((bits_RW[:, :, None] >> shifts) & 1).flatten(1)[:, : logits_RV.shape[1]] != 0
    return logits_RV.masked_fill(~allowed_RV, -torch.inf)


def allow_only(logits_RV: Tensor, limited_R: Tensor, rows_E: Tensor, tokens_E: Tensor) -> Tensor:
    """-inf for every logit of a limited row that is not among the entries.

    limited_R         [R] bool    rows that are False are off
    rows_E, tokens_E  [E] int64
    """
    kept = logits_RV[rows_E, tokens_E]
    out_RV = logits_RV.masked_fill(limited_R[:, None], -torch.inf)
    out_RV[rows_E, tokens_E] = kept
    return out_RV


def forbid(logits_RV: Tensor, rows_E: Tensor, tokens_E: Tensor) -> Tensor:
    """-inf for the entries. rows_E, tokens_E [E] int64."""
    out_RV = logits_RV.clone()
    out_RV[rows_E, tokens_E] = -torch.inf
    return out_RV


def add_bias(logits_RV: Tensor, rows_E: Tensor, tokens_E: Tensor, bias_E: Tensor) -> Tensor:
    """Adds bias_E [E] fp32 to the entries. rows_E, tokens_E [E] int64."""
    out_RV = logits_RV.clone()
    out_RV[rows_E, tokens_E] += bias_E
    return out_RV
