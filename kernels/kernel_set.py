"""The one place that chooses kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["KernelSet", "LinearKernel", "load_kernels"]


class LinearKernel(Protocol):
    def __call__(self, x_TI: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class KernelSet:
    """One implementation of every operation. Contracts are in kernels/<op>/reference.py.

    The operations that touch the KV cache agree on how a block is laid out in it; nobody else may look inside.
    """

    name: str
    linear: Callable[..., LinearKernel]  # (weight_OI, bias_O | None) -> the packed matrix
    rms_norm: Callable[..., Tensor]
    add_rms_norm: Callable[..., Tensor]
    qkv_rotary: Callable[..., Tensor]
    paged_attention: Callable[..., Tensor]
    gated_activation: Callable[..., Tensor]
    allow_bits: Callable[..., Tensor]
    allow_only: Callable[..., Tensor]
    forbid: Callable[..., Tensor]
    add_bias: Callable[..., Tensor]
    penalties: Callable[..., Tensor]
    scale_temperature: Callable[..., Tensor]
    keep_min_p: Callable[..., Tensor]
    keep_top_k: Callable[..., Tensor]
    keep_top_p: Callable[..., Tensor]
    choose: Callable[..., Tensor]
    logprobs: Callable[..., tuple[Tensor, Tensor, Tensor]]


def load_kernels(device: torch.device, dtype: torch.dtype) -> KernelSet:
    """The fastest kernels for a device and the model's dtype."""
    from kernels.gated_activation.reference import gated_activation
    from kernels.linear import cpu as cpu_linear
    from kernels.linear import reference as reference_linear
    from kernels.logit_mask.reference import add_bias, allow_bits, allow_only, forbid
    from kernels.logprobs.reference import logprobs
    from kernels.paged_attention.reference import paged_attention
    from kernels.penalties.reference import penalties
    from kernels.qkv_rotary.reference import qkv_rotary
    from kernels.rms_norm.reference import add_rms_norm, rms_norm
    from kernels.sampling.reference import choose, keep_min_p, keep_top_k, keep_top_p, scale_temperature

    packs = device.type == "cpu" and dtype == torch.bfloat16 and cpu_linear.is_supported()
    return KernelSet(
        name="reference",
        linear=cpu_linear.Linear if packs else reference_linear.Linear,
        rms_norm=rms_norm,
        add_rms_norm=add_rms_norm,
        qkv_rotary=qkv_rotary,
        paged_attention=paged_attention,
        gated_activation=gated_activation,
        allow_bits=allow_bits,
        allow_only=allow_only,
        forbid=forbid,
        add_bias=add_bias,
        penalties=penalties,
        scale_temperature=scale_temperature,
        keep_min_p=keep_min_p,
        keep_top_k=keep_top_k,
        keep_top_p=keep_top_p,
        choose=choose,
        logprobs=logprobs,
    )
