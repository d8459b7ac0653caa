"""Every configuration that is shipped: kernel, types, constants and launch, as a wrapper would pass them on Hopper."""

import torch
import triton

from kernels.embedding import triton as embedding
from kernels.experts import triton as experts
from kernels.gated_activation import triton as gated_activation
from kernels.linear import gemv_triton as gemv
from kernels.linear import triton as linear
from kernels.logit_mask import triton as logit_mask
from kernels.logprobs import triton as logprobs
from kernels.penalties import triton as penalties
from kernels.qkv_rotary import triton as qkv_rotary
from kernels.quantized_linear import gemv_triton as quantized_gemv
from kernels.quantized_linear import triton as quantized_linear
from kernels.rms_norm import triton as rms_norm
from kernels.sampling import filters_triton as filters
from kernels.sampling import triton as sampling
from kernels.soft_cap import triton as soft_cap
from kernels.square_sums import triton as square_sums
from tests.aot.attention import attention
from tests.aot.recurrent import recurrent

__all__ = ["shipped"]

DEVICE = torch.device("cpu")  # nothing is measured there: the written parameters

# outputs, inputs, bias, output's type
LINEARS = {
    "llama-8b, queries, keys and values": (6144, 4096, False, "bf16"),
    "llama-8b, gate and up": (28672, 4096, False, "bf16"),
    "llama-8b, down": (4096, 14336, False, "bf16"),
    "llama-8b, head": (128256, 4096, False, "fp32"),
    "qwen2-7b, queries, keys and values": (4608, 3584, True, "bf16"),
    "smollm2-135m, down": (576, 1536, False, "bf16"),
    "of odd sizes": (577, 1552, True, "bf16"),
}

# outputs, inputs, bits, group, offsets
QUANTISED_LINEARS = {
    "llama-8b, queries, keys and values, AWQ": (6144, 4096, 4, 128, True),
    "llama-8b, gate and up, GPTQ": (28672, 4096, 4, 128, False),
    "llama-8b, down, Q4_K": (4096, 14336, 4, 32, True),
    "llama-8b, down, int8": (4096, 14336, 8, 14336, False),
    "smollm2-135m, output, Q4_0": (576, 576, 4, 32, False),
    "smollm2-135m, head, Q8_0": (49152, 576, 8, 32, False),
}


def shipped():
    """name -> (kernel, types, constants, launch)"""
    linears = _linears() | _quantized_linears()
    return attention() | recurrent() | _layers("bf16") | linears | _experts() | _sampling() | _filters() | _logits()


def _layers(dtype):
    one = f"*{dtype}"
    cases = {}
    norms = {"": (576, 4096, 8192), " of what is added too": (5376,), " of what is added alone": (4096,)}
    for more, dims in norms.items():
        types = {"x": one, "residual": "*fp32", "weight": "*fp32", "x_weight": "*fp32", "out": one}
        types |= {"eps": "fp32", "x_scale": "fp32"}
        absent = {} if more else {"x_weight": None}
        absent |= {"weight": None} if "alone" in more else {}
        for dim in dims:
            cases[f"add_rms_norm{more}, {dim}, {dtype}"] = (
                rms_norm._add_rms_norm,
                types,
                {"M": dim, **absent},
                rms_norm.launch(dim, DEVICE),
            )
    for dim in (576, 4096):
        types = {"weight": one, "tokens": "*i64", "out": one}
        cases[f"embedding, {dim}, {dtype}"] = embedding._embedding, types, {"M": dim}, embedding.launch(dim, DEVICE)
    for dim, kind in ((1536, "silu"), (14336, "silu"), (9216, "gelu_tanh"), (2880, "clamped")):
        cases[f"gated_activation, {kind}, {dim}, {dtype}"] = (
            gated_activation._gated_activation,
            {"gate_up": one, "out": one},
            {"KIND": kind, "F": dim},
            gated_activation.launch(dim, DEVICE),
        )
    cases[f"square_sums, 4096 and 1024, {dtype}"] = (
        square_sums._square_sums,
        {"qkv": one, "out": "*fp32"},
        {"WIDTH": 6144, "QUERIES": 4096, "KEYS": 1024},
        square_sums.launch(4096, DEVICE),
    )
    wide, narrow, large = (32, 8, 128), (9, 3, 64), (16, 8, 256)
    shapes = (wide, "", False), (wide, "normed, ", False), (narrow, "", False), (wide, "", True)
    for shape, normed, fp8 in (*shapes, (wide, "normed over all heads, ", False), (large, "normed, ", False)):
        num_heads, num_kv_heads, dim = shape
        types = dict.fromkeys(("qkv", "q_out"), one) | {"eps": "fp32"}
        types |= dict.fromkeys(("k_cache", "v_cache"), "*fp8e4nv" if fp8 else one)
        types |= dict.fromkeys(("q_norm", "k_norm", "cos_sin", "k_scale", "v_scale", "squares"), "*fp32")
        types |= dict.fromkeys(("positions", "slots"), "*i64")
        sizes = {"HEADS": num_heads, "KV_HEADS": num_kv_heads, "D": dim, "PAGE": 16, "R": dim}
        unscaled = {} if fp8 else {"k_scale": None, "v_scale": None}
        unscaled |= {} if "all" in normed else {"squares": None}
        more = f"{normed}{'fp8 cache, ' if fp8 else ''}"
        cases[f"qkv_rotary, {num_heads}/{num_kv_heads} x {dim}, {more}{dtype}"] = (
            qkv_rotary._qkv_rotary,
            types,
            {"NORM_Q": bool(normed), "NORM_K": bool(normed), **sizes, **unscaled},
            qkv_rotary.launch(dim, DEVICE),
        )
    return cases


def _linears():
    cases = {}
    for name, (num_out, num_in, bias, out_dtype) in LINEARS.items():
        types = {"x": "*bf16", "weight": "*bf16", "bias": "*bf16", "out": f"*{out_dtype}", "num_rows": "i32"}
        constants = {"BIAS": bias, "NUM_OUT": num_out, "NUM_IN": num_in} | ({} if bias else {"bias": None})
        launch = linear.launch(num_out, num_in, False, DEVICE)
        cases[f"linear, {name}, bf16"] = linear._linear, types, constants, launch
        types = {name: type_ for name, type_ in types.items() if name != "num_rows"}
        cases[f"row by a matrix, {name}, bf16"] = gemv._gemv, types, constants, gemv.launch(num_out, num_in, DEVICE)
    return cases


def _quantized_linears():
    cases = {}
    for name, (num_out, num_in, bits, group, offsets) in QUANTISED_LINEARS.items():
        plain = {"num_warps": 4, "num_stages": 3}
        shape = {"NUM_OUT": num_out, "NUM_IN": num_in}
        least = -128 if bits == 8 else 0 if offsets else -8
        numbers = {"OFFSETS": offsets, "LEAST": least, "BITS": bits, "GROUP": group}
        numbers |= {} if offsets else {"offsets": None}
        types = {"x": "*bf16", "words": "*i32", "factors": "*fp32", "offsets": "*fp32", "num_rows": "i32"}
        no_bias = {"BIAS": False, "bias": None}
        for num_rows in (16, 32, 64, 128):
            launch = quantized_linear.launch(num_rows, num_out, num_in, bits, group, DEVICE)
            assert not launch.pop("DENSE")
            out = "*bf16" if launch["SPLITS"] == 1 else "*fp32"
            absent = no_bias | ({} if launch["SUMMED"] else {"sums": None})
            cases[f"quantized linear, {name}, {num_rows} rows"] = (
                quantized_linear._multiply,
                {**types, "out": out, "sums": "*fp32"},
                {**shape, **numbers, **absent},
                launch,
            )
        cases[f"row by a quantized matrix, {name}"] = (
            quantized_gemv._gemv,
            {**types, "out": "*bf16", "exponent": "i32"},
            {**shape, **numbers, **no_bias},
            quantized_gemv.launch(num_out, num_in, bits, DEVICE),
        )
        merged = {"parts": "*fp32", "out": "*bf16", "num_rows": "i32"}
        cases[f"merge of a quantized linear, {name}"] = (
            quantized_linear._merge,
            merged,
            {**no_bias, "NUM_OUT": num_out, "SPLITS": launch["SPLITS"], "BLOCK_O": 512},
            plain,
        )
        cases[f"widen, {name}"] = (
            quantized_linear._widen, {**types, "out": "*bf16"}, {**shape, **numbers, "BLOCK_O": 64}, plain
        )  # fmt: skip
        span = min(group, 512 // bits)
        spans = {"NUM_IN": num_in, "SPAN": span, "SPANS": triton.cdiv(num_in, span), "BLOCK_N": 8}
        types = {"x": "*bf16", "out": "*fp32", "num_rows": "i32"}
        cases[f"sums of groups, {name}"] = quantized_linear._sum_inputs, types, spans, plain
    return cases


def _experts():
    cases = {}
    # experts, of each row, outputs, inputs; of each row only where rows are gathered
    for name, (num_experts, top_k, num_out, num_in, bias) in {
        "qwen3-30b-a3b, gate and up": (128, 8, 1536, 2048, False),
        "qwen3-30b-a3b, down": (128, 0, 2048, 768, False),
        "mixtral-8x7b, gate and up": (8, 2, 28672, 4096, False),
        "mixtral-8x7b, down": (8, 0, 4096, 14336, False),
        "gpt-oss-20b, gate and up": (32, 4, 5760, 2880, True),
    }.items():
        types = {"x": "*bf16", "weight": "*bf16", "bias": "*bf16", "order": "*i64", "starts": "*i32"}
        cases[f"experts, {name}, bf16"] = (
            experts._multiply,
            {**types, "out": "*bf16" if top_k else "*fp32"},
            {
                "E": num_experts,
                "NUM_OUT": num_out,
                "NUM_IN": num_in,
                "TOP_K": top_k,
                **({} if bias else {"bias": None}),
            },
            experts.launch(num_out, num_in, False, DEVICE),
        )
    cases["route, 8 of 128"] = (
        experts._route,
        {"logits": "*fp32", "ids": "*i64", "weights": "*fp32"},
        {"E": 128, "TOP_K": 8, "RENORMALISE": True, "BLOCK_E": 128, "BLOCK_K": 8},
        {"num_warps": 1, "num_stages": 3},
    )
    cases["combine, 8 x 2048, bf16"] = (
        experts._combine,
        {"made": "*fp32", "places": "*i64", "starts": "*i32", "weights": "*fp32", "added": "*fp32", "out": "*bf16"},
        {"E": 128, "M": 2048, "TOP_K": 8, "BLOCK_M": 1024},
        {"num_warps": 4, "num_stages": 3},
    )
    return cases


def _sampling():
    plain = {"num_warps": 4, "num_stages": 3}
    types = {"logits": "*fp32", "greedy": "*u1", "seeds": "*i64", "positions": "*i64", "best_out": "*fp32"}
    types |= {"token_out": "*i64", "best": "*fp32", "tokens": "*i64", "out": "*i64"}
    return {
        "choose of chunks, 128256": (
            sampling._best_of_chunk,
            types,
            {"V": 128256},
            sampling.launch(128256, DEVICE),
        ),
        "choose of rows, 128256": (sampling._best_of_row, types, {"CHUNKS": 32, "BLOCK_C": 32}, plain),
        "soft_cap, 256000": (
            soft_cap._soft_cap,
            {"logits": "*fp32", "cap": "fp32"},
            {"V": 256000},
            soft_cap.launch(256000, DEVICE),
        ),
        "allow_bits, 128256": (
            logit_mask._allow_bits,
            {"logits": "*fp32", "bits": "*i32", "out": "*fp32"},
            {"V": 128256, "W": 4008},
            logit_mask.launch(128256, DEVICE),
        ),
    }


def _filters():
    types = dict.fromkeys(("logits", "tops", "out", "min_ps"), "*fp32")
    types |= dict.fromkeys(("sums", "borders"), "*i64") | {"level": "i32"}
    cases = {}
    for vocab_size in (49152, 128256):
        launch = filters.launch(vocab_size, DEVICE)
        shape = {"V": vocab_size, "BLOCK_C": triton.next_power_of_2(triton.cdiv(vocab_size, launch["CHUNK_V"]))}
        for name, bound in (("top-p", "*fp32"), ("top-k", "*i64")):
            constants = {**shape, "WEIGHTED": name == "top-p"} | ({} if name == "top-p" else {"tops": None})
            for function in (filters._weigh, filters._drop):
                cases[f"{name},{function.__name__.replace('_', ' ')}, {vocab_size}"] = (
                    function, {**types, "bounds": bound}, constants, launch
                )  # fmt: skip
        cases[f"tops of chunks, {vocab_size}"] = filters._top_of_chunk, types, shape, launch
        cases[f"min-p, {vocab_size}"] = filters._drop_below, types, shape, launch
    return cases


def _logits():
    """Single entries, and log probabilities."""
    plain = {"num_warps": 4, "num_stages": 3}
    floats = ("logits", "bias", "counts", "presence", "frequency", "repetition", "out", "stats", "chosen_out")
    ints = ("rows", "tokens", "chosen", "best", "ids_out")
    types = dict.fromkeys((*floats, "values_out"), "*fp32") | dict.fromkeys(ints, "*i64")
    types |= {"num_entries": "i32", "limited": "*u1"}
    shape = {"V": 128256, "BLOCK_E": logit_mask.BLOCK_E}
    names = ("_copy_entries", "_forbid_entries", "_add_to_entries")
    functions = [*(getattr(logit_mask, name) for name in names), penalties._penalise]
    cases = {
        f"{function.__name__[1:].replace('_', ' ')}, 128256": (function, types, shape, plain) for function in functions
    }
    dense = logit_mask.launch(128256, DEVICE)
    cases["forbid rows, 128256"] = logit_mask._forbid_rows, types, {"V": 128256}, dense
    launch = logprobs.launch(128256, DEVICE)
    types["num_top"] = "i32"
    shape = {"V": 128256}
    chunks = triton.cdiv(128256, launch["CHUNK_V"])
    merged = {"CHUNKS": chunks, "BLOCK_C": 16, "BLOCK_B": triton.next_power_of_2(chunks * logprobs.MOST)}
    cases["log probabilities of chunks, 128256"] = logprobs._look_at_chunk, types, shape, launch
    cases["log probabilities of rows, 128256"] = logprobs._look_at_row, types, {**shape, **merged}, plain
    return cases
