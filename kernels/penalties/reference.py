"""Presence, frequency and repetition penalties. The reference."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["PenaltyEntries", "penalties"]


class PenaltyEntries(NamedTuple):
    """Entry e says that row rows_E[e] has seen token tokens_E[e]; none appears twice."""

    rows_E: Tensor  # int64
    tokens_E: Tensor  # int64
    counts_E: Tensor  # fp32, times among the output tokens; 0 for a token of the prompt alone


def penalties(
    logits_RV: Tensor,
    entries: PenaltyEntries,
    presence_R: Tensor,
    frequency_R: Tensor,
    repetition_R: Tensor,
) -> Tensor:
    """Penalizes tokens seen before.

    logits_RV         [R, V] fp32
    entries           the tokens that each row has seen
    presence_R        [R] fp32   subtracted once from tokens with a count; 0 is off
    frequency_R       [R] fp32   subtracted once per count; 0 is off
    repetition_R      [R] fp32   divides positive and multiplies negative logits of every entry; 1 is off

    Repetition comes first. Returns [R, V] fp32.
    """
    rows_E, tokens_E, counts_E = entries
    seen_E = logits_RV[rows_E, tokens_E]
    repetition_E = repetition_R[rows_E]
    seen_E = torch.where(seen_E > 0, seen_E / repetition_E, seen_E * repetition_E)
    seen_E = seen_E - frequency_R[rows_E] * counts_E - presence_R[rows_E] * (counts_E > 0)
    out_RV = logits_RV.clone()
    out_RV[rows_E, tokens_E] = seen_E
    return out_RV
