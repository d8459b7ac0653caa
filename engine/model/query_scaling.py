"""Query scaling by position, which keeps attention sharp over long contexts (Llama 4, Ministral 3)."""

from torch import Tensor

from engine.arch.layer_spec import QueryScaling

__all__ = ["scale_queries"]


def scale_queries(q_TX: Tensor, positions_T: Tensor, scaling: QueryScaling) -> None:
    """Multiplies each token's queries [T, X] in place. RoPE may come before or after."""
    periods_T = (positions_T + scaling.offset) // scaling.period
    factor_T = 1 + scaling.beta * periods_T.float().log1p()
    q_TX.copy_(q_TX.float() * factor_T[:, None])
