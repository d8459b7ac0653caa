"""The choice of tokens in C. Supports bfloat16."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from kernels.native.compiler import Compiler
from kernels.operations import ChooseTokens
from kernels.paged_attention.spec import AttentionLayout

__all__ = ["build"]


def build(compiler: Compiler) -> ChooseTokens:
    function = compiler.load(Path(__file__).with_name("cpu.c")).choose_tokens
    function.argtypes = [ctypes.c_void_p] * 7 + [ctypes.c_int64] * 9
    function.restype = None

    def choose_tokens(q_THD: Tensor, weight_TH: Tensor, cache: Tensor, layout: AttentionLayout, top_k: int) -> Tensor:
        num_tokens, num_heads, dim = q_THD.shape
        table_SW = layout.block_table_SW
        assert q_THD.dtype == cache.dtype == torch.bfloat16 and weight_TH.dtype == torch.float32
        assert q_THD.is_contiguous() and weight_TH.is_contiguous() and cache.is_contiguous()
        num_chosen = min(top_k, table_SW.shape[1] * cache.shape[2])
        chosen_TK = torch.zeros((num_tokens, num_chosen), dtype=torch.int32)
        function(
            q_THD.data_ptr(),
            weight_TH.data_ptr(),
            cache.data_ptr(),
            layout.query_starts.data_ptr(),
            layout.seq_lens_S.data_ptr(),
            table_SW.data_ptr(),
            chosen_TK.data_ptr(),
            num_tokens,
            layout.seq_lens_S.shape[0],
            num_heads,
            dim,
            cache.shape[3],
            cache.shape[2],
            table_SW.shape[1],
            num_chosen,
            torch.get_num_threads(),
        )
        return chosen_TK

    return choose_tokens
