"""Latent attention and recurrent layers in the shapes of models, as their wrappers would launch them on Hopper."""

import torch
import triton

from kernels.attention_tile import splits_triton
from kernels.causal_conv import triton as causal_conv
from kernels.gated_delta_rule import triton as gated_delta_rule
from kernels.latent_attention import triton as latent_attention
from kernels.latent_rotary import triton as latent_rotary
from kernels.selective_scan import triton as selective_scan
from kernels.sparse_indexer import triton as sparse_indexer

__all__ = ["recurrent"]

# heads of a rank, dimensions of the latent, of the rotated key
LATENTS = {"deepseek-v3": (128, 512, 64), "deepseek-v2-lite": (16, 512, 64), "glm-4.7-flash, 2 ranks": (10, 512, 64)}


def recurrent():
    """name -> (kernel, types, constants, launch)"""
    return _latents() | _indexers() | _convolutions() | _delta_rules() | _scans()


def _latents():
    cases = {}
    ints, floats = dict.fromkeys(("starts", "lens", "table"), "*i32"), dict.fromkeys(("sums_out", "stats_out"), "*fp32")
    sizes = dict.fromkeys(("num_seqs", "num_parts", "width"), "i32") | {"scale": "fp32"}
    for name, (heads, rank, rope_dim) in LATENTS.items():
        launch = latent_attention.launch(rank, rope_dim, heads, torch.bfloat16)
        splits = {"SPLIT": latent_attention.SPLIT, "MAX_SPLITS": latent_attention.MAX_SPLITS}
        shape = {"HEADS": heads, "L": rank, "R": rope_dim, "ROW": rank + rope_dim}
        types = {"q": "*bf16", "cache": "*bf16", "out": "*bf16", **ints, **floats, **sizes}
        for cut in (True, False):
            cases[f"latent attention{'' if cut else ', uncut'}, {name}"] = (
                latent_attention._latent_attention,
                types,
                {**shape, "PAGE": 16, **splits, "CUT": cut},
                launch,
            )
        types = {"q": "*bf16", "kv": "*bf16", "norm": "*fp32", "cos_sin": "*fp32", "positions": "*i64", "slots": "*i64"}
        cases[f"latent rotary, {name}"] = (
            latent_rotary._latent_rotary,
            {**types, "cache": "*bf16", "kv_stride": "i32", "eps": "fp32"},
            {**shape, "BLOCK_H": latent_rotary.BLOCK_H, "BLOCK_L": rank, "BLOCK_R": rope_dim // 2},
            {"num_warps": 4, "num_stages": 3},
        )
    cases["merge of latents, 128 x 512"] = (
        splits_triton.merge,
        {"starts": "*i32", "lens": "*i32", "out_THD": "*bf16", "sums_in": "*fp32", "stats_in": "*fp32", **sizes},
        {"HEADS": 128, "D": 512, "WINDOW": 0, **splits, "BY_ROW": True, "BLOCK_D": 512}
        | dict.fromkeys(("sinks", "lse_out", "shared_lens")),
        {"num_warps": 4, "num_stages": 3},
    )
    return cases


def _indexers():
    """DeepSeek-V3.2's, whose cached row is 512 + 64 + 128 numbers."""
    heads, dim, rope_dim, row = 64, 128, 64, 704
    ints = dict.fromkeys(("starts", "lens", "table"), "*i32")
    sizes = dict.fromkeys(("first", "num_seqs", "width", "most", "top_k"), "i32")
    norms = dict.fromkeys(("norm_weight", "norm_bias", "cos_sin"), "*fp32")
    shape = {"HEADS": heads, "D": dim, "ROW": row}
    return {
        "index scores, deepseek-v3.2": (
            sparse_indexer._scores,
            {"q": "*bf16", "weights": "*fp32", "cache": "*bf16", **ints, "scores": "*fp32", **sizes},
            {**shape, "PAGE": 16},
            sparse_indexer.launch(dim, heads, torch.bfloat16),
        ),
        "index rotary, deepseek-v3.2": (
            sparse_indexer._index_rotary,
            {"q": "*bf16", "k": "*bf16", **norms, "positions": "*i64", "slots": "*i64", "cache": "*bf16"}
            | {"k_stride": "i32", "eps": "fp32"},
            {**shape, "R": rope_dim, "BLOCK_H": sparse_indexer.BLOCK_H, "BLOCK_D": dim, "BLOCK_R": rope_dim // 2},
            {"num_warps": 4, "num_stages": 3},
        ),
        "latent attention to chosen tokens, deepseek-v3.2": (
            latent_attention._latent_attention,
            {"q": "*bf16", "cache": "*bf16", "out": "*bf16", **ints, "sums_out": "*fp32", "stats_out": "*fp32"}
            | dict.fromkeys(("num_seqs", "num_parts", "width"), "i32")
            | {"scale": "fp32"},
            {"HEADS": 128, "L": 512, "R": 64, "ROW": row, "PAGE": 1, "SPLIT": latent_attention.SPLIT}
            | {"MAX_SPLITS": latent_attention.MAX_SPLITS, "CUT": True},
            latent_attention.launch(512, 64, 128, torch.bfloat16),
        ),
    }


def _convolutions():
    types = {"x": "*bf16", "state": "*bf16", "starts": "*i32", "lens": "*i32", "slots": "*i64", "stride": "i32"}
    more = {"weight": "*fp32", "num_seqs": "i32", "out": "*bf16"}
    cases = {}
    for name, channels, taps, silu in (("qwen3-next", 8192, 4, True), ("lfm2-1.2b", 2048, 3, False)):
        shape = {"C": channels, "TAPS": taps, "BLOCK_C": causal_conv.BLOCK_C}
        launch = {"num_warps": 4, "num_stages": 3}
        constants = {**shape, "SILU": silu, "bias": None}
        cases[f"convolution, {name}"] = causal_conv._convolve, types | more, constants, launch
        cases[f"convolution's states, {name}"] = causal_conv._advance, types, shape, launch
    return cases


def _delta_rules():
    types = dict.fromkeys(("q", "k", "v", "out"), "*bf16") | dict.fromkeys(("decay", "beta", "state"), "*fp32")
    types |= {"starts": "*i32", "lens": "*i32", "slots": "*i64", "scale": "fp32"}
    types |= dict.fromkeys(("q_stride", "k_stride", "v_stride"), "i32")
    launch = gated_delta_rule.launch(128, triton.next_power_of_2(128))
    cases = {}
    for name, groups, decays in (("qwen3-next", 16, 1), ("kimi-linear", 32, 128)):
        shape = {"HEADS": 32, "GROUPS": groups, "K": 128, "V": 128, "DECAYS": decays}
        cases[f"gated delta rule, {name}"] = gated_delta_rule._gated_delta_rule, types, shape, launch
    return cases


def _scans():
    types = dict.fromkeys(("x", "b", "c", "out"), "*bf16")
    types |= dict.fromkeys(("decay", "step", "skip", "state"), "*fp32")
    types |= {"starts": "*i32", "lens": "*i32", "slots": "*i64"} | dict.fromkeys(
        ("x_stride", "b_stride", "c_stride"), "i32"
    )
    cases = {}
    for name, heads, groups, head_dim, state_dim in (
        ("granite-4-small", 128, 1, 64, 128),
        ("nemotron-3-nano", 64, 8, 64, 128),
        ("bamba-9b", 128, 1, 64, 256),
    ):
        shape = {"HEADS": heads, "GROUPS": groups, "P": head_dim, "N": state_dim}
        launch = selective_scan.launch(head_dim, state_dim)
        cases[f"selective scan, {name}"] = selective_scan._selective_scan, types, shape, launch
    return cases
