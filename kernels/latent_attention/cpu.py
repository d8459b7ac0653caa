"""Latent attention in C. Supports bfloat16."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from kernels.latent_attention.spec import LatentSpec
from kernels.native.compiler import Compiler
from kernels.operations import LatentAttention
from kernels.paged_attention.spec import AttentionLayout

__all__ = ["build"]


def build(compiler: Compiler) -> LatentAttention:
    function = compiler.load(Path(__file__).with_name("cpu.c")).latent_attention
    function.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_float] + [ctypes.c_int64] * 9
    function.restype = None

    def latent_attention(q_THX: Tensor, cache: Tensor, layout: AttentionLayout, spec: LatentSpec) -> Tensor:
        num_tokens, num_heads, dim = q_THX.shape
        block_table_SW = layout.block_table_SW
        assert q_THX.dtype == cache.dtype == torch.bfloat16 and q_THX.is_contiguous() and cache.is_contiguous()
        out_THL = torch.empty((num_tokens, num_heads, spec.rank), dtype=q_THX.dtype)
        function(
            q_THX.data_ptr(),
            cache.data_ptr(),
            layout.query_starts.data_ptr(),
            layout.seq_lens_S.data_ptr(),
            block_table_SW.data_ptr(),
            out_THL.data_ptr(),
            spec.scale,
            num_tokens,
            layout.seq_lens_S.shape[0],
            num_heads,
            dim,
            spec.rank,
            cache.shape[3],
            cache.shape[2],
            block_table_SW.shape[1],
            torch.get_num_threads(),
        )
        return out_THL

    return latent_attention
