"""Sampling: temperature, min-p, top-k, top-p, Gumbel choice. The reference. Every stage maps [R, V] to [R, V]."""

import torch
from torch import Tensor

__all__ = ["choose", "gumbel_noise", "keep_min_p", "keep_top_k", "keep_top_p", "scale_temperature"]


def scale_temperature(logits_RV: Tensor, temperature_R: Tensor) -> Tensor:
    """logits / temperature. Rows with temperature 0 are greedy and pass unchanged; 1 is off."""
    divisor_R = torch.where(temperature_R == 0, torch.ones_like(temperature_R), temperature_R)
    return logits_RV / divisor_R[:, None]


def keep_min_p(logits_RV: Tensor, min_p_R: Tensor) -> Tensor:
    """-inf for tokens less likely than min_p times the most likely one. 0 is off."""
    least_R = logits_RV.amax(-1) + min_p_R.log()
    return logits_RV.masked_fill(logits_RV < least_R[:, None], -torch.inf)


def keep_top_k(logits_RV: Tensor, top_k_R: Tensor) -> Tensor:
    """-inf for all but the k largest logits; among equals the lower id stays. 0 is off.

    top_k_R  [R] int64
    """
    num_tokens = logits_RV.shape[1]
    kept_R = torch.where(top_k_R > 0, top_k_R, num_tokens)
    order_RV = logits_RV.sort(stable=True, dim=-1, descending=True).indices
    drop_sorted_RV = torch.arange(num_tokens, device=logits_RV.device) >= kept_R[:, None]
    return logits_RV.masked_fill(_unsorted(drop_sorted_RV, order_RV), -torch.inf)


def keep_top_p(logits_RV: Tensor, top_p_R: Tensor) -> Tensor:
    """-inf for all but the smallest set of most likely tokens whose probabilities reach top_p.

    A token stays if the tokens before it, most likely first and the lower id first among equals, do not reach top_p.
    The most likely token always stays. 1 is off.
    """
    sorted_RV, order_RV = logits_RV.sort(stable=True, dim=-1, descending=True)
    probs_RV = sorted_RV.double().softmax(-1)
    before_RV = probs_RV.cumsum(-1) - probs_RV
    drop_RV = (before_RV >= top_p_R[:, None]) & (top_p_R < 1)[:, None]
    drop_RV[:, 0] = False
    return logits_RV.masked_fill(_unsorted(drop_RV, order_RV), -torch.inf)


def choose(logits_RV: Tensor, greedy_R: Tensor, seeds_R: Tensor, positions_R: Tensor) -> Tensor:
    """The chosen token of each row, [R] int64.

    greedy_R     [R] bool     True takes the largest logit, the lowest id among equals
    seeds_R      [R] int64
    positions_R  [R] int64    position that the chosen token will have in its sequence

    Other rows draw from softmax(logits): the largest sum of logit and Gumbel noise. The noise is a function of (seed,
    position, token) alone, so a row draws the same token in any batch and at any time.
    """
    noise_RV = gumbel_noise(seeds_R, positions_R, logits_RV.shape[1])
    noise_RV[greedy_R] = 0.0
    return (logits_RV + noise_RV).argmax(-1)


def gumbel_noise(seeds_R: Tensor, positions_R: Tensor, num_tokens: int) -> Tensor:
    """[R, num_tokens] fp32, Gumbel distributed: -log(-log(1 - u)), u from a hash of (seed, position, token).

    Small u, where the noise is large and decides, keeps all its 32 bits in a float.
    """
    key_R = _mix64(_mix64(seeds_R) + positions_R)
    low_R1, high_R1 = _low32(key_R)[:, None], _low32(key_R >> 32)[:, None]
    token_V = torch.arange(num_tokens, device=seeds_R.device)
    hash_RV = _mix32(_mix32(_low32(token_V * 0x9E3779B9 + low_R1)) ^ high_R1)
    uniform_RV = ((hash_RV.double() + 0.5) * 2.0**-32).float().clamp_(max=1 - 2.0**-24)
    return -(-torch.log1p(-uniform_RV)).log()


def _unsorted(flags_RV: Tensor, order_RV: Tensor) -> Tensor:
    return torch.empty_like(flags_RV).scatter_(-1, order_RV, flags_RV)


def _low32(x: Tensor) -> Tensor:
    return x & 0xFFFFFFFF


def _mix32(x: Tensor) -> Tensor:
    """A bijection of 32 bit words that lets every bit of the input reach every bit of the output."""
    x = _low32((x ^ (x >> 16)) * 0x7FEB352D)
    x = _low32((x ^ (x >> 15)) * 0x846CA68B)
    return x ^ (x >> 16)


def _mix64(x: Tensor) -> Tensor:
    """The same for 64 bits. int64 arithmetic wraps; right shifts are made logical by a mask."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ ((x >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ ((x >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return x ^ ((x >> 31) & (2**33 - 1))
