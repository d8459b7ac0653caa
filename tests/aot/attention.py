"""Attention in the shapes of models, as its wrapper would launch it on Hopper."""

from dataclasses import dataclass

import torch

from kernels.attention_tile import splits_triton
from kernels.paged_attention import triton as paged_attention

__all__ = ["attention"]

DEVICE = torch.device("cpu")  # nothing is measured there: the written parameters
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8e4nv": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Shape:
    heads: tuple[int, int]  # of queries, of keys and values
    head_dim: int
    block_size: int = 16
    window: int = 0
    soft_cap: float = 0.0
    sinks: bool = False
    lse: bool = False
    dtype: str = "bf16"
    cache: str = ""  # another dtype than that, with scales
    prefixes: bool = False
    every: bool = False  # kernels that differ in little, too


SHAPES = {
    "llama-8b": Shape((32, 8), 128, every=True),
    "llama-8b, fp16": Shape((32, 8), 128, dtype="fp16"),
    "llama-8b, blocks of 64": Shape((32, 8), 128, block_size=64, every=True),
    "llama-8b, blocks of 64, fp16": Shape((32, 8), 128, block_size=64, dtype="fp16"),
    "llama-8b, with logarithms": Shape((32, 8), 128, lse=True),
    "llama-8b, fp8 cache": Shape((32, 8), 128, cache="fp8e4nv", every=True),
    "llama-8b, fp8 cache, blocks of 64": Shape((32, 8), 128, block_size=64, cache="fp8e4nv"),
    "llama-8b, shared prefixes": Shape((32, 8), 128, prefixes=True, every=True),
    "llama-8b, shared prefixes, blocks of 64": Shape((32, 8), 128, block_size=64, prefixes=True),
    "llama-8b, shared prefixes, fp8 cache": Shape((32, 8), 128, cache="fp8e4nv", prefixes=True),
    "mistral-7b": Shape((32, 8), 128, window=4096),
    "mistral-7b, blocks of 64": Shape((32, 8), 128, block_size=64, window=4096),
    "smollm2-135m": Shape((9, 3), 64),
    "smollm2-135m, shared prefixes": Shape((9, 3), 64, prefixes=True),
    "smollm2-135m, blocks of 64": Shape((9, 3), 64, block_size=64),
    "phi-2": Shape((32, 32), 80),
    "phi-2, blocks of 64": Shape((32, 32), 80, block_size=64),
    "phi-3": Shape((32, 32), 96),
    "phi-3, blocks of 64": Shape((32, 32), 96, block_size=64),
    "smollm2-135m, fp8 cache": Shape((9, 3), 64, cache="fp8e4nv"),
    "phi-2, fp8 cache": Shape((32, 32), 80, cache="fp8e4nv"),
    "gemma-2b": Shape((8, 1), 256),
    "gemma-2b, fp8 cache": Shape((8, 1), 256, cache="fp8e4nv"),
    "gemma-2b, fp8 cache, blocks of 64": Shape((8, 1), 256, block_size=64, cache="fp8e4nv"),
    "gemma-2b, blocks of 64": Shape((8, 1), 256, block_size=64),
    "gemma-2-9b": Shape((16, 8), 256, soft_cap=50.0),
    "gemma-2-9b, shared prefixes": Shape((16, 8), 256, soft_cap=50.0, prefixes=True),
    "gemma-2b, shared prefixes, fp8 cache": Shape((8, 1), 256, cache="fp8e4nv", prefixes=True),
    "gemma-2-9b, window": Shape((16, 8), 256, window=4096, soft_cap=50.0),
    "gemma-4-26b": Shape((16, 2), 512),
    "gemma-4-26b, blocks of 64": Shape((16, 2), 512, block_size=64),
    "gemma-4-26b, fp8 cache": Shape((16, 2), 512, cache="fp8e4nv"),
    "gemma-4-26b, shared prefixes": Shape((16, 2), 512, prefixes=True),
    "gemma-4-26b, shared prefixes, fp8 cache": Shape((16, 2), 512, cache="fp8e4nv", prefixes=True),
    "gpt-oss-20b": Shape((64, 8), 64, sinks=True),
    "gpt-oss-20b, window": Shape((64, 8), 64, window=128, sinks=True),
    "gpt-oss-20b, window, blocks of 64": Shape((64, 8), 64, block_size=64, window=128, sinks=True),
}


def attention():
    """name -> (kernel, types, constants, launch)"""
    return {f"{kernel}, {name}": case for name, shape in SHAPES.items() for kernel, case in _kernels_of(shape).items()}


def _kernels_of(shape):
    cases = {
        "decode of rows": _kernel("decode", shape, BY_ROW=True),
        "merge of rows": _kernel("merge", shape, BY_ROW=True),
    }
    if shape.prefixes:
        cases["shared of rows"] = _kernel("shared", shape, BY_ROW=True)
    else:
        cases["ragged"] = _kernel("ragged", shape, LEAST=2)
    if shape.every:
        cases["decode of sequences"] = _kernel("decode", shape, BY_ROW=False)
        cases["merge of sequences"] = _kernel("merge", shape, BY_ROW=False)
        name, differs = ("shared", {"BY_ROW": False}) if shape.prefixes else ("ragged", {"LEAST": 1})
        cases["shared of sequences" if shape.prefixes else "ragged, uncut"] = _kernel(name, shape, **differs)
    return cases


def _kernel(name, shape, **constants):
    function = splits_triton.merge if name == "merge" else getattr(paged_attention, f"_{name}")
    num_heads, num_kv_heads = shape.heads
    dtype, cache_dtype = DTYPES[shape.dtype], DTYPES[shape.cache or shape.dtype]
    launch = paged_attention.launch(name, shape.head_dim, num_heads // num_kv_heads, dtype, cache_dtype, DEVICE)
    tma = name != "merge" and paged_attention.has_whole_tiles(shape.head_dim, shape.block_size, cache_dtype, launch)
    constants |= {"HEADS": num_heads, "KV_HEADS": num_kv_heads, "D": shape.head_dim, "PAGE": shape.block_size}
    constants |= {"WINDOW": shape.window, "SOFT_CAP": shape.soft_cap, "TMA": tma}
    constants |= {"SPLIT": paged_attention.SPLIT, "MAX_SPLITS": paged_attention.MAX_SPLITS}
    given = {"sinks": shape.sinks, "lse_out": shape.lse, "k_scale": bool(shape.cache), "v_scale": bool(shape.cache)}
    given["shared_lens"] = shape.prefixes
    constants |= {option: None for option, present in given.items() if not present}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    return function, _types(shape, tma, launch), constants, launch


def _types(shape, tma, launch):
    types = dict.fromkeys(("q_THD", "out_THD"), f"*{shape.dtype}")
    cache = shape.cache or shape.dtype
    cache = f"tensordesc<{cache}[{launch['BLOCK_N']}, {launch['BLOCK_D']}]>" if tma else f"*{cache}"
    types |= dict.fromkeys(("k_cache", "v_cache"), cache)
    types |= dict.fromkeys(("starts", "lens", "table", "group_starts", "members", "shared_lens"), "*i32")
    types |= dict.fromkeys(("num_seqs", "num_groups", "num_parts", "width"), "i32") | {"scale": "fp32"}
    floats = ("sums_out", "stats_out", "sums_in", "stats_in", "sinks", "lse_out", "k_scale", "v_scale")
    return types | dict.fromkeys(floats, "*fp32")
