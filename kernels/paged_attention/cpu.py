"""In C. Supports bfloat16 with even head and block sizes, over blocks as kernels/qkv_rotary/cpu.c writes them."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler

__all__ = ["build"]


def build(compiler: Compiler) -> Callable[..., Tensor]:
    function = compiler.load(Path(__file__).with_name("cpu.c")).paged_attention
    function.argtypes = [ctypes.c_void_p] * 7 + [ctypes.c_float] + [ctypes.c_int64] * 9
    function.restype = None

    def paged_attention(
        q_THD: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        query_starts: Tensor,
        seq_lens_S: Tensor,
        block_table_SW: Tensor,
        scale: float,
        window: int = 0,
    ) -> Tensor:
        num_tokens, num_heads, head_dim = q_THD.shape
        _, num_kv_heads, block_size, _ = k_cache.shape
        assert head_dim % 2 == 0 and block_size % 2 == 0
        out_THD = torch.empty_like(q_THD)
        function(
            q_THD.data_ptr(),
            k_cache.data_ptr(),
            v_cache.data_ptr(),
            query_starts.data_ptr(),
            seq_lens_S.data_ptr(),
            block_table_SW.data_ptr(),
            out_THD.data_ptr(),
            scale,
            window,
            num_tokens,
            seq_lens_S.shape[0],
            num_heads,
            num_kv_heads,
            head_dim,
            block_size,
            block_table_SW.shape[1],
            torch.get_num_threads(),
        )
        return out_THD

    return paged_attention
