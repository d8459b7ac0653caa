"""Sampling in C, for contiguous fp32 logits on CPU, whatever the model's dtype."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler

__all__ = ["Sampling", "build"]


@dataclass(frozen=True)
class Sampling:
    keep_top_k: Callable[[Tensor, Tensor], Tensor]
    keep_top_p: Callable[[Tensor, Tensor], Tensor]
    choose: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    gumbel_noise: Callable[[Tensor, Tensor, int], Tensor]


def build(compiler: Compiler) -> Sampling:
    library = compiler.load(Path(__file__).with_name("cpu.c"))
    for name, num_pointers, num_sizes in (
        ("keep_top_k", 3, 3),
        ("keep_top_p", 3, 3),
        ("choose", 5, 3),
        ("gumbel_noise", 3, 2),
    ):
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p] * num_pointers + [ctypes.c_int64] * num_sizes
        function.restype = None

    def keep_top_k(logits_RV: Tensor, top_k_R: Tensor) -> Tensor:
        return _mapped(library.keep_top_k, logits_RV, top_k_R)

    def keep_top_p(logits_RV: Tensor, top_p_R: Tensor) -> Tensor:
        return _mapped(library.keep_top_p, logits_RV, top_p_R)

    def choose(logits_RV: Tensor, greedy_R: Tensor, seeds_R: Tensor, positions_R: Tensor) -> Tensor:
        logits_RV = logits_RV.contiguous()
        out_R = torch.empty(logits_RV.shape[0], dtype=torch.int64)
        library.choose(
            logits_RV.data_ptr(),
            greedy_R.data_ptr(),
            seeds_R.data_ptr(),
            positions_R.data_ptr(),
            out_R.data_ptr(),
            *logits_RV.shape,
            torch.get_num_threads(),
        )
        return out_R

    def gumbel_noise(seeds_R: Tensor, positions_R: Tensor, num_tokens: int) -> Tensor:
        out_RV = torch.empty((seeds_R.shape[0], num_tokens))
        library.gumbel_noise(seeds_R.data_ptr(), positions_R.data_ptr(), out_RV.data_ptr(), *out_RV.shape)
        return out_RV

    return Sampling(keep_top_k, keep_top_p, choose, gumbel_noise)


def _mapped(function: Callable[..., None], logits_RV: Tensor, bound_R: Tensor) -> Tensor:
    logits_RV = logits_RV.contiguous()
    out_RV = torch.empty_like(logits_RV)
    function(logits_RV.data_ptr(), bound_R.data_ptr(), out_RV.data_ptr(), *logits_RV.shape, torch.get_num_threads())
    return out_RV
