"""Logit soft capping: keeps logits within bounds. The reference."""

from torch import Tensor

__all__ = ["soft_cap"]


def soft_cap(logits_RV: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap), fp32, may be in place."""
    return logits_RV.div_(cap).tanh_().mul_(cap)
