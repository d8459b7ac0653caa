"""Penalties in Triton: a copy, and one launch for the entries."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.logit_mask.triton import BLOCK_E, load_entries
from kernels.penalties.reference import PenaltyEntries

__all__ = ["penalties"]


def penalties(
    logits_RV: Tensor,
    entries: PenaltyEntries,
    presence_R: Tensor,
    frequency_R: Tensor,
    repetition_R: Tensor,
) -> Tensor:
    rows_E, tokens_E, counts_E = entries
    out_RV = logits_RV.clone(memory_format=torch.contiguous_format)
    if num_entries := rows_E.shape[0]:
        _penalise[triton.cdiv(num_entries, BLOCK_E),](
            rows_E, tokens_E, counts_E, presence_R, frequency_R, repetition_R, out_RV, num_entries,
            V=out_RV.shape[1], BLOCK_E=BLOCK_E,
        )  # fmt: skip
    return out_RV


@triton.jit(do_not_specialize=["num_entries"])
def _penalise(
    rows, tokens, counts, presence, frequency, repetition, out, num_entries, V: tl.constexpr, BLOCK_E: tl.constexpr
):
    entry, there, row, at = load_entries(rows, tokens, num_entries, V, BLOCK_E)
    logit = tl.load(out + at, mask=there, other=0.0)
    factor = tl.load(repetition + row, mask=there, other=1.0)
    count = tl.load(counts + entry, mask=there, other=0.0)
    logit = tl.where(logit > 0, tl.div_rn(logit, factor), logit * factor)
    logit -= tl.load(frequency + row, mask=there, other=0.0) * count
    logit -= tl.where(count > 0, tl.load(presence + row, mask=there, other=0.0), 0.0)
    tl.store(out + at, logit, mask=there)
