"""QK norm, RoPE and KV cache write in C. Supports bfloat16, not scaled, with even head and block sizes."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler
from kernels.qkv_rotary.spec import QkvSpec

__all__ = ["build"]


def build(compiler: Compiler) -> Callable[..., Tensor]:
    function = compiler.load(Path(__file__).with_name("cpu.c")).qkv_rotary
    function.argtypes = [ctypes.c_void_p] * 10 + [ctypes.c_float] + [ctypes.c_int64] * 7
    function.restype = None

    def qkv_rotary(
        qkv_TX: Tensor,
        cache: tuple[Tensor, Tensor],
        positions_T: Tensor,
        slots_T: Tensor,
        spec: QkvSpec,
        squares_T2: Tensor | None = None,
    ) -> Tensor:
        k_cache, v_cache = cache
        q_norm_D, k_norm_D, eps, cos_sin_CR = spec.q_norm_D, spec.k_norm_D, spec.eps, spec.cos_sin_CR
        _, num_kv_heads, block_size, head_dim = k_cache.shape
        assert head_dim % 2 == 0 and block_size % 2 == 0
        assert k_cache.dtype == v_cache.dtype == torch.bfloat16 and spec.k_scale_G is spec.v_scale_G is None
        assert squares_T2 is None or squares_T2.dtype == torch.float32 and squares_T2.is_contiguous()
        num_tokens, width = qkv_TX.shape
        num_heads = width // head_dim - 2 * num_kv_heads
        q_THD = torch.empty((num_tokens, num_heads, head_dim), dtype=qkv_TX.dtype)
        function(
            qkv_TX.data_ptr(),
            None if q_norm_D is None else q_norm_D.data_ptr(),
            None if k_norm_D is None else k_norm_D.data_ptr(),
            None if squares_T2 is None else squares_T2.data_ptr(),
            cos_sin_CR.data_ptr(),
            positions_T.data_ptr(),
            slots_T.data_ptr(),
            k_cache.data_ptr(),
            v_cache.data_ptr(),
            q_THD.data_ptr(),
            eps,
            num_tokens,
            num_heads,
            num_kv_heads,
            head_dim,
            block_size,
            cos_sin_CR.shape[1],
            torch.get_num_threads(),
        )
        return q_THD

    return qkv_rotary
