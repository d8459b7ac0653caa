"""Query scaling by position, which keeps attention sharp over long contexts (Llama 4, Ministral 3)."""

import torch
from torch import Tensor

from engine.arch.mixer_spec import QueryScaling

__all__ = ["scale_queries", "scaling_table"]


def scaling_table(scaling: QueryScaling, num_positions: int, device: torch.device) -> Tensor:
    """[C] fp32: the factor of each position."""
    periods_C = (torch.arange(num_positions) + scaling.offset) // scaling.period
    return (1 + scaling.beta * periods_C.double().log1p()).float().to(device)


def scale_queries(q_TX: Tensor, positions_T: Tensor, table_C: Tensor) -> None:
    """Multiplies each token's queries [T, X] in place. RoPE may come before or after."""
    q_TX.copy_(q_TX.float() * table_C[positions_T, None])
