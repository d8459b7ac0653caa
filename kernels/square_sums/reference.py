"""Sums of squares: what a norm over all of a token's queries, or keys, needs to know across ranks. The reference."""

import torch
from torch import Tensor

__all__ = ["square_sums"]


def square_sums(qkv_TX: Tensor, num_queries: int, num_keys: int) -> Tensor:
    """[T, 2] fp32: of each row, the sum of squares of its first num_queries values, and of the num_keys after them."""
    queries, keys = qkv_TX[:, :num_queries].float(), qkv_TX[:, num_queries : num_queries + num_keys].float()
    return torch.stack((queries.square().sum(1), keys.square().sum(1)), 1)
