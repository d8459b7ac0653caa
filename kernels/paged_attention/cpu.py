"""Paged attention in C. Supports bfloat16, not scaled, even head and block sizes, blocks as qkv_rotary/cpu.c writes
them.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler
from kernels.paged_attention.spec import AttentionLayout, AttentionSpec

__all__ = ["build"]


def build(compiler: Compiler) -> Callable[..., Tensor]:
    library = compiler.load(Path(__file__).with_name("cpu.c"))
    function = library.paged_attention
    function.argtypes = [ctypes.c_void_p] * 9 + [ctypes.c_float] * 2 + [ctypes.c_int64] * 10
    function.restype = None
    library.has_tiles.restype = ctypes.c_int64
    has_tiles = library.has_tiles()

    def paged_attention(
        q_THD: Tensor,
        cache: tuple[Tensor, Tensor],
        layout: AttentionLayout,
        spec: AttentionSpec,
        lse_out_TH: Tensor | None = None,
    ) -> Tensor:
        k_cache, v_cache = cache
        query_starts, seq_lens_S, block_table_SW = layout.query_starts, layout.seq_lens_S, layout.block_table_SW
        num_tokens, num_heads, head_dim = q_THD.shape
        _, num_kv_heads, block_size, _ = k_cache.shape
        assert head_dim % 2 == 0 and block_size % 2 == 0
        assert k_cache.dtype == v_cache.dtype == torch.bfloat16 and spec.k_scale_G is spec.v_scale_G is None
        assert all(x is None or x.dtype == torch.float32 and x.is_contiguous() for x in (spec.sinks_H, lse_out_TH))
        out_THD = torch.empty_like(q_THD)
        function(
            q_THD.data_ptr(),
            k_cache.data_ptr(),
            v_cache.data_ptr(),
            query_starts.data_ptr(),
            seq_lens_S.data_ptr(),
            block_table_SW.data_ptr(),
            None if spec.sinks_H is None else spec.sinks_H.data_ptr(),
            out_THD.data_ptr(),
            None if lse_out_TH is None else lse_out_TH.data_ptr(),
            spec.scale,
            spec.soft_cap,
            spec.reach,
            num_tokens,
            seq_lens_S.shape[0],
            num_heads,
            num_kv_heads,
            head_dim,
            block_size,
            block_table_SW.shape[1],
            torch.get_num_threads(),
            has_tiles,
        )
        return out_THD

    return paged_attention
