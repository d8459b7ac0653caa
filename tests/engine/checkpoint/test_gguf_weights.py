import math
import statistics

import gguf
import numpy as np
import pytest
import torch

from engine.arch.gguf import arch_from_gguf
from engine.errors import ModelError
from tests.engine.model.tiny import Runner, error, oracle, oracle_logits

TOKENS = torch.randint(97, (40,), generator=torch.Generator().manual_seed(2)).tolist()
QUANTISABLE = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"]
DEQUANTISABLE = ["Q4_K", "Q5_K", "Q6_K"]
NEIGHBOURS = ("llama", "olmo", "smollm3", "granite", "granitemoe", "granitehybrid", "arcee", "mistral3")


ARCHES = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}


def gguf_name(name, names):
    """As llama.cpp's converter has it; `names`: the gguf package's map for the family."""
    name = name.replace("e_score_correction_bias", "e_score_correction.bias").replace("expert_bias", "expert_bias.bias")
    name = name.replace(".gate.moe_statics.", ".moe_statics.").replace(".block_sparse_moe.experts.", ".mlp.experts.")
    name = name.replace(".mixer.experts.", ".mlp.experts.")
    for root in ("model.", "backbone.", "gpt_neox."):
        found = names.get_name(name.replace("model.", root, 1), (".weight", ".bias"))
        if found is not None:
            return found
    raise KeyError(name)


def neighbors(weight, num_heads):
    """The row order of llama files, the way their converter makes it."""
    return weight.reshape(num_heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


HYBRIDS = ("qwen3next", "qwen35", "qwen35moe")


def delta_net(name, array, layer, tiled):
    """What the converter makes of a tensor of a gated delta net."""
    heads, per_key = layer.num_k_heads, layer.num_v_heads // layer.num_k_heads

    def tile(rows):
        per_head = rows.reshape(heads, per_key, -1, *rows.shape[1:])
        return per_head.swapaxes(0, 1).reshape(rows.shape) if tiled else rows

    num_keys = 2 * layer.key_dim
    if name.endswith("A_log"):
        return {name: tile(-np.exp(array))}
    if name.endswith("dt_bias"):
        return {name.replace("dt_bias", "dt_proj.bias"): tile(array)}
    if "conv1d" in name or "in_proj_qkv." in name:
        rows = array.reshape(len(array), -1)
        return {name: np.concatenate([rows[:num_keys], tile(rows[num_keys:])])}
    if "in_proj_qkvz" in name:
        widths = np.cumsum([layer.head_k_dim, layer.head_k_dim, per_key * layer.head_v_dim])
        *qkv, z = np.split(array.reshape(heads, -1, array.shape[1]), widths, axis=1)
        qkv = [part.reshape(-1, array.shape[1]) for part in qkv]
        stem = name.removesuffix("qkvz.weight")
        return {f"{stem}qkv.weight": np.concatenate(qkv), f"{stem}z.weight": z.reshape(-1, array.shape[1])}
    if "out_proj" in name:
        return {name: np.ascontiguousarray(tile(array.T).T)}
    return {name: array if ".norm." in name or "in_proj_ba" in name else tile(array)}


def mamba(name, array):
    """What the converter makes of a tensor of Mamba-2."""
    if name.endswith("A_log"):
        return {name: -np.exp(array)[:, None]}
    if name.endswith(".D"):
        return {name: array[:, None]}
    if name.endswith("dt_bias"):
        return {name.replace("dt_bias", "dt_proj.bias"): array}
    return {name: array.squeeze(1) if "conv1d.weight" in name else array}


def kimi_delta(name, array):
    """What the converter makes of a tensor of Kimi Delta Attention."""
    name = name.replace("forget_gate.", "")
    if name.endswith("A_log"):
        return {name: -np.exp(array)}
    if name.endswith("dt_bias"):
        return {name.replace("dt_bias", "dt_proj.bias"): array}
    if not name.endswith(".conv1d.weight"):
        return {name: array}
    parts = zip("qkv", np.split(array, 3), strict=True)
    return {name.replace("conv1d", f"{which}_conv1d"): part.reshape(1, len(part), 1, -1) for which, part in parts}


def scaled(name, array, config):
    """Of Falcon-H1, with the factors that its converter multiplies in."""
    gate, down = config.mlp_multipliers
    factors = {
        "embed_tokens": config.embedding_multiplier,
        "lm_head": config.lm_head_multiplier,
        "q_proj": config.attention_in_multiplier,
        "k_proj": config.attention_in_multiplier * config.key_multiplier,
        "v_proj": config.attention_in_multiplier,
        "o_proj": config.attention_out_multiplier,
        "gate_proj": gate,
        "down_proj": down,
        "out_proj": config.ssm_out_multiplier,
    }
    if "in_proj" in name:
        inner, shared = config.mamba_d_ssm, config.mamba_n_groups * config.mamba_d_state
        counts = [inner, inner, shared, shared, config.mamba_n_heads]
        return array * config.ssm_in_multiplier * np.repeat(np.float32(config.ssm_multipliers), counts)[:, None]
    return array * next((factor for part, factor in factors.items() if name.split(".")[-2] == part), 1.0)


KINDS = {
    float: gguf.GGUFValueType.FLOAT32,
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    str: gguf.GGUFValueType.STRING,
}


def unpacked(tensors):
    """What transformers has of all experts together, as a file has it: gates and ups on their own."""
    unpacked = {}
    for name, tensor in tensors.items():
        if "router" in name or "sinks" in name:  # gpt-oss, whose matrices lie the other way and are interleaved
            unpacked[name.replace("router", "gate").replace("sinks", "sinks.weight")] = tensor
        elif name.endswith("_proj_bias"):
            stem, gate_up = name.split("experts.")[0], "gate_up" in name
            parts = {"gate": tensor[:, 0::2], "up": tensor[:, 1::2]} if gate_up else {"down": tensor}
            unpacked |= {f"{stem}experts.{which}_proj.bias": part for which, part in parts.items()}
        elif name.endswith(("experts.gate_up_proj", "experts.down_proj")) and f"{name}_bias" in tensors:
            stem, rows = name.split("experts.")[0], tensor.transpose(1, 2)
            parts = {"gate": rows[:, 0::2], "up": rows[:, 1::2]} if "gate_up" in name else {"down": rows}
            unpacked |= {f"{stem}experts.{which}_proj.weight": part for which, part in parts.items()}
        elif name.endswith("experts.gate_up_proj"):
            for which, part in zip(("gate", "up"), tensor.chunk(2, 1), strict=True):
                unpacked[name.replace("gate_up_proj", f"{which}_proj.weight")] = part
        elif name.endswith(("moe.input_linear.weight", "shared_mlp.input_linear.weight")):  # Granite's
            has_experts = any(".experts." in other for other in tensors)
            at = "experts" if "shared" not in name else "shared_experts" if has_experts else ""
            for which, part in zip(("gate", "up"), tensor.chunk(2, -2), strict=True):
                unpacked[f"{'.'.join(name.split('.')[:3])}.mlp.{at}.{which}_proj.weight".replace("..", ".")] = part
        elif name.endswith("shared_mlp.output_linear.weight") and not any(".experts." in other for other in tensors):
            unpacked[name.replace("shared_mlp.output_linear", "mlp.down_proj")] = tensor
        elif name.endswith(("conv.conv.weight", "shared_expert_gate.weight")):
            unpacked[name] = tensor.squeeze(1 if "conv" in name else 0)
        else:
            stacked = name.endswith((".experts.up_proj", ".experts.down_proj"))
            unpacked[f"{name}.weight" if stacked else name] = tensor
    return unpacked


def with_stacks(tensors):
    """Of Gemma 3n and 4 and Mistral 4: all experts in one tensor, as other stacks, and a kind in every name."""
    ends = ("_scale", "layer_scalar", "experts.gate_up_proj", "experts.down_proj")
    stacked = {
        f"{name}.weight" if name.endswith(ends) and "router" not in name else name: one
        for name, one in tensors.items()
        if "altup_" not in name
    }
    for part in ("altup_projections", "altup_unembed_projections"):
        if each := [one for name, one in tensors.items() if part in name]:
            stacked[f"model.{part}.weight"] = torch.stack(each)
    return stacked


EPS = ("norm_eps", "rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon")


def of_llama4(tensors):
    """Experts as a file has them: each matrix on its own, its rows the outputs."""
    written = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for which, part in zip(("gate", "up"), tensor.transpose(1, 2).chunk(2, 1), strict=True):
                written[name.replace("gate_up_proj", f"{which}_proj.weight")] = part.contiguous()
        elif name.endswith("experts.down_proj"):
            written[f"{name}.weight"] = tensor.transpose(1, 2).contiguous()
        else:
            written[name] = tensor
    return written


def write(model, path, family, change=lambda tensors: None, pairs=(), num_kv_heads=None):
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    dense_dim = getattr(config, "intermediate_size_mlp", config.intermediate_size)
    writer.add_feed_forward_length(model.model.layers[0].feed_forward.w1.out_features if "lfm" in family else dense_dim)
    norm_offset = 1.0 if family in ("gemma", "gemma2", "gemma3", "nemotron", *HYBRIDS) else 0.0
    writer.add_head_count(config.num_attention_heads)
    if family != "gptneox":
        writer.add_head_count_kv(num_kv_heads or config.num_key_value_heads)
    eps = next((name for name in EPS if hasattr(config, name)), "")
    layer_norms = eps in ("", "norm_epsilon", "layer_norm_eps") or family == "nemotron"
    add_eps = writer.add_layer_norm_eps if layer_norms else writer.add_layer_norm_rms_eps
    add_eps(getattr(config, eps, 1e-5))
    if family not in ("gemma3", "nemotron_h_moe", "kimi-linear"):  # old files leave it out, or there is none
        rope = config.rope_parameters
        theta, alpha = rope.get("full_attention", rope)["rope_theta"], rope.get("alpha", 1.0)
        writer.add_rope_freq_base(theta * alpha ** (config.head_dim / (config.head_dim - 2)) if alpha != 1 else theta)
    if family not in ("deepseek2", "gemma4", "mistral4", "minicpm3", "kimi-linear") and getattr(
        config, "head_dim", None
    ):
        writer.add_key_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    for key, value in pairs:
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, KINDS[type(value)])
    tensors = {}
    names = gguf.get_tensor_name_map(ARCHES[family], config.num_hidden_layers)
    state = model.state_dict()
    stacked = family in ("gemma3n", "gemma4", "mistral4")
    as_written = of_llama4 if family == "llama4" else with_stacks if stacked else unpacked
    for name, tensor in as_written(state).items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        if family in NEIGHBOURS and "q_proj" in name:
            array = neighbors(array, config.num_attention_heads)
        if family in NEIGHBOURS and "k_proj" in name:
            array = neighbors(array, config.num_key_value_heads)
        if "act_fn" in name:
            continue  # in the metadata
        if "query_key_value" in name:  # a head's queries, keys and values lie together
            array = array.reshape(config.num_attention_heads, 3, -1, *array.shape[1:]).swapaxes(0, 1)
            array = array.reshape(tensor.shape)
        if norm_offset and "norm" in name and "linear_attn" not in name and name.endswith("weight"):
            array = array + norm_offset
        if family == "falcon-h1":
            array = scaled(name, array, config)
        parts = {name: array}
        if ".mamba." in name or "mixer." in name:
            parts = mamba(name, array)
        if family == "kimi-linear" and "self_attn" in name:
            parts = kimi_delta(name, array)
        if "kv_b_proj" in name and family != "minicpm3":  # heads' keys and values apart
            heads = array.reshape(config.num_attention_heads, -1, array.shape[1])
            keys, values = np.split(heads, [config.qk_nope_head_dim], axis=1)
            keys = np.ascontiguousarray(keys.swapaxes(1, 2))
            parts = {name.replace("kv_b", "k_b"): keys, name.replace("kv_b", "v_b"): np.ascontiguousarray(values)}
        if family in HYBRIDS and "linear_attn" in name:
            parts = delta_net(name, array, model.model.layers[0].linear_attn, tiled=family != "qwen3next")
        if family == "gemma4" and "router." in name and "proj" not in name:
            at = f"blk.{name.split('.')[2]}"
            end = "ffn_down_exps.scale" if "per_expert" in name else "ffn_gate_inp.scale"
            tensors[f"{at}.{end}"] = array, gguf.GGMLQuantizationType.F32
            continue
        tensors |= {gguf_name(name, names): (part, gguf.GGMLQuantizationType.F32) for name, part in parts.items()}
    change(tensors)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("name", "family"),
    [("llama2", "llama"), ("smollm2", "llama"), ("llama biases", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")],
)
def test_a_gguf_file_gives_transformers_logits(name, family, tmp_path):
    model = oracle(name)
    path = write(model, tmp_path / "tiny.gguf", family)
    assert error(Runner(path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4


def test_rope_factors_of_llama3_files_are_honoured(tmp_path):
    model = oracle("llama3")
    inner = model.model.rotary_emb
    plain = 10000.0 ** -(torch.arange(0, 12, 2) / 12)
    factors = (plain / inner.inv_freq).numpy()
    path = write(
        model,
        tmp_path / "tiny.gguf",
        "llama",
        lambda tensors: tensors.update({"rope_freqs.weight": (factors, gguf.GGMLQuantizationType.F32)}),
    )
    assert error(Runner(path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4


# Of each family what its converter writes besides sizes
YARN = [
    ("olmo2.rope.scaling.type", "yarn"),
    ("olmo2.rope.scaling.factor", 4.0),
    ("olmo2.rope.scaling.original_context_length", 32),
]
PAIRS = {
    "phi3": ("phi3", [("phi3.attention.sliding_window", 9), ("phi3.rope.dimension_count", 12)]),
    "olmo2": ("olmo2", []),
    "exaone4": ("exaone4", [("exaone4.attention.sliding_window", 9)]),
    "exaone4 without windows": ("exaone4", []),
    "glm4": ("glm4", [("glm4.rope.dimension_count", 12)]),
    "olmo3": (
        "olmo2",
        [
            ("olmo2.attention.sliding_window", 9),
            ("olmo2.attention.sliding_window_pattern", [True, True, True, False]),
            *YARN,
        ],
    ),
    "gemma": ("gemma", []),
    "gemma2": (
        "gemma2",
        [
            ("gemma2.attention.sliding_window", 9),
            ("gemma2.attn_logit_softcapping", 3.0),
            ("gemma2.final_logit_softcapping", 4.0),
        ],
    ),
    "gemma3": (
        "gemma3",
        [
            ("gemma3.attention.sliding_window", 9),
            ("gemma3.rope.scaling.type", "linear"),
            ("gemma3.rope.scaling.factor", 8.0),
        ],
    ),
    "smollm3": ("smollm3", []),
    "qwen3 moe": (
        "qwen3moe",
        [
            ("qwen3moe.expert_count", 6),
            ("qwen3moe.expert_used_count", 2),
            ("qwen3moe.expert_feed_forward_length", 32),
        ],
    ),
    "mixtral": (
        "llama",
        [("llama.expert_count", 4), ("llama.expert_used_count", 3), ("llama.attention.sliding_window", 9)],
    ),
    "gpt oss": (
        "gpt-oss",
        [
            ("gpt-oss.expert_count", 4),
            ("gpt-oss.expert_used_count", 2),
            ("gpt-oss.attention.sliding_window", 9),
            ("gpt-oss.rope.scaling.type", "yarn"),
            ("gpt-oss.rope.scaling.factor", 4.0),
            ("gpt-oss.rope.scaling.original_context_length", 32),
        ],
    ),
    "olmoe": ("olmoe", [("olmoe.expert_count", 6), ("olmoe.expert_used_count", 2)]),
    "granite": (
        "granite",
        [
            ("granite.embedding_scale", 12.3),
            ("granite.residual_scale", 0.22),
            ("granite.attention.scale", 0.4),
            ("granite.logit_scale", 7.0),
        ],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_files_of_other_families_give_transformers_logits(name, tmp_path):
    family, pairs = PAIRS[name]
    model = oracle(name)
    if family in ("gemma2", "gemma3"):  # which a file cannot say: it follows from the size
        for layer in model.model.layers:
            layer.self_attn.scaling = 16**-0.5
    path = write(model, tmp_path / "tiny.gguf", family, pairs=pairs)
    assert error(Runner(path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4


EXPERTS = {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 32}
NOAUX = {"expert_gating_func": 2, "expert_weights_norm": True}
XIELU = ("alpha_p", "alpha_n", "beta", "eps")
TIED = {"tie_word_embeddings": True}
# Of newer families: oracle -> architecture, metadata besides sizes, changes of the oracle's config
NEWER = {
    "seed oss": ("seed_oss", {}),
    "arcee": ("arcee", {}),
    "ernie": ("ernie4_5", {}),
    "ernie moe": ("ernie4_5-moe", EXPERTS),
    "hunyuan": ("hunyuan-dense", {}),
    "hunyuan moe": ("hunyuan-moe", {"expert_count": 4, "expert_used_count": 2}),
    "dots1": (
        "dots1",
        {**EXPERTS, **NOAUX},
        {"norm_topk_prob": True, "layer_types": ["full_attention"] * 3},
    ),
    "qwen2 moe": ("qwen2moe", EXPERTS, {"decoder_sparse_step": 1, "mlp_only_layers": []}),
    "glm4 moe": (
        "glm4moe",
        {
            **EXPERTS,
            **NOAUX,
            "expert_count": 8,
            "expert_used_count": 3,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
            "expert_weights_scale": 1.7,
            "rope.dimension_count": 8,
        },
    ),
    "minimax m2": (
        "minimax-m2",
        {"expert_count": 5, "expert_used_count": 2, "expert_gating_func": 2, "rope.dimension_count": 8},
    ),
    "granite moe": (
        "granitemoe",
        {
            "expert_count": 4,
            "expert_used_count": 2,
            "attention.scale": 0.3,
            "residual_scale": 0.5,
            "logit_scale": 1.0,
        },
    ),
    "granite moe shared": (
        "granitemoe",
        {"expert_count": 4, "expert_used_count": 2, "attention.scale": 1.0, "logit_scale": 3.0},
    ),
    "ministral3": (
        "mistral3",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 16,
            "rope.scaling.yarn_log_multiplier": 1.0,
            "attention.temperature_scale": 0.3,
        },
    ),
    "lfm2": ("lfm2", {"shortconv.l_cache": 3}),
    "lfm2 moe": ("lfm2moe", {**EXPERTS, "expert_gating_func": 2, "shortconv.l_cache": 3}, TIED),
}

HALF = {"rope.dimension_count": 6}
NEWER |= {
    "starcoder2": ("starcoder2", {"attention.sliding_window": 9}),
    "stablelm": ("stablelm", HALF),
    "stablelm parallel": ("stablelm", HALF),
    "gpt neox": ("gptneox", {**HALF, "use_parallel_residual": True}),
    "gpt neox in turn": ("gptneox", {**HALF, "use_parallel_residual": False}),
    "nemotron": ("nemotron", {"rope.dimension_count": 8}),
    "jais2": ("jais2", {}),
    "phi": ("phi2", HALF),
    "phi moe": (
        "phimoe",
        {"expert_count": 6, "expert_used_count": 2, "attention.sliding_window": 9},
        {"router_jitter_noise": 0.01},
    ),
    "llama4": (
        "llama4",
        {"expert_count": 4, "expert_used_count": 1, "expert_feed_forward_length": 80, "interleave_moe_layer_step": 2},
        {"attention_chunk_size": 8192, "floor_scale": 8192, "no_rope_layer_interval": 4},
    ),
    "olmo": ("olmo", {"attention.clamp_kqv": 0.5}),
    "apertus": (
        "apertus",
        {f"xielu.{name}": [value] * 3 for name, value in zip(XIELU, (0.3, 1.2, 0.5, -1e-6), strict=True)},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
    "minicpm3": (
        "minicpm3",
        {
            "attention.q_lora_rank": 20,
            "attention.kv_lora_rank": 24,
            "attention.key_length": 20,
            "rope.dimension_count": 8,
        },
        {"attention_bias": False, "v_head_dim": 12, "dim_model_base": 256},
    ),
}

DELTA_NET = {
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "ssm.state_size": 8,
    "ssm.inner_size": 48,
    "ssm.conv_kernel": 4,
    "rope.dimension_count": 4,
}
LATENT = {
    **EXPERTS,
    "expert_count": 8,
    "expert_used_count": 3,
    "attention.kv_lora_rank": 24,
    "attention.key_length": 32,
    "attention.key_length_mla": 20,
    "attention.value_length_mla": 16,
    "rope.dimension_count": 8,
}
GROUPS = {"expert_group_count": 4, "expert_group_used_count": 2}
MAMBA = {"ssm.time_step_rank": 6, "ssm.inner_size": 96, "ssm.state_size": 20, "ssm.conv_kernel": 4}
GRANITE = {"attention.scale": 0.3, "ssm.group_count": 1}
NEWER |= {
    "granite hybrid": ("granitehybrid", {**MAMBA, **GRANITE, "expert_count": 4, "expert_used_count": 2}),
    "granite hybrid dense": (
        "granitehybrid",
        {**MAMBA, "ssm.group_count": 2, "attention.scale": 1.0, "residual_scale": 0.7, "rope.scaling.finetuned": True},
    ),
    "falcon h1 without norm": ("falcon-h1", {**MAMBA, "ssm.group_count": 2}),
    "cohere": ("command-r", {"logit_scale": 0.3}),
    "cohere2": ("cohere2", {"logit_scale": 0.0625, "attention.sliding_window": 9}),
    "nemotron h": (
        "nemotron_h_moe",
        {**EXPERTS, **MAMBA, **NOAUX, "ssm.group_count": 2, "expert_weights_scale": 1.5},
    ),
    "deepseek v2": ("deepseek2", {**LATENT, **GROUPS, "expert_weights_scale": 1.5}),
    "deepseek v3": (
        "deepseek2",
        {
            **LATENT,
            **NOAUX,
            **GROUPS,
            "expert_weights_scale": 2.5,
            "attention.q_lora_rank": 20,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_log_multiplier": 0.1,
        },
    ),
    "glm4 moe lite": (
        "deepseek2",
        {**LATENT, **NOAUX, "expert_weights_scale": 1.8, "attention.q_lora_rank": 20},
    ),
    "kimi linear": (
        "kimi-linear",
        {**LATENT, **NOAUX, **GROUPS, "expert_weights_scale": 2.446, "kda.head_dim": 12, "ssm.conv_kernel": 4},
    ),
    "qwen3.5": ("qwen35", DELTA_NET),
    "qwen3.5 moe": ("qwen35moe", {**DELTA_NET, **EXPERTS}),
    "qwen3 next": ("qwen3next", {**DELTA_NET, **EXPERTS}),
}


SLIDING = {"attention.sliding_window": 9, "attention.sliding_window_pattern": [True, False] * 3 + [False]}
GEMMA4 = {**SLIDING, "attention.key_length": 24, "attention.key_length_swa": 16}
# a quarter of the pairs is rotated where attention is full
ROPE_FREQS = np.array([1.0] * 3 + [1e30] * 9, np.float32), gguf.GGMLQuantizationType.F32
FREQUENCIES = {"gemma4": lambda tensors: tensors.update({"rope_freqs.weight": ROPE_FREQS})}
NEWER |= {
    "gemma3n": (
        "gemma3n",
        {
            **SLIDING,
            "attention.shared_kv_layers": 3,
            "embedding_length_per_layer_input": 8,
            "altup.num_inputs": 3,
            "final_logit_softcapping": 4.0,
            "activation_sparsity_scale": [
                *(
                    statistics.NormalDist().inv_cdf(share) if share else -math.inf
                    for share in (0.9, 0, 0.6, 0, 0, 0.5, 0)
                )
            ],
        },
    ),
    "gemma4": (
        "gemma4",
        {
            **GEMMA4,
            "attention.shared_kv_layers": 4,
            "embedding_length_per_layer_input": 8,
            "final_logit_softcapping": 4.0,
        },
    ),
    "mistral4": (
        "mistral4",
        {
            **LATENT,
            **GROUPS,
            "attention.q_lora_rank": 20,
            "expert_weights_scale": 1.0,
            "expert_weights_norm": True,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 16,
            "rope.scaling.yarn_log_multiplier": 0.1,
            "attention.temperature_scale": 0.3,
        },
    ),
    "gemma4 moe": ("gemma4", {**GEMMA4, **EXPERTS, "embedding_length_per_layer_input": 0}),
}


@pytest.mark.parametrize("name", NEWER)
def test_files_of_newer_families_give_transformers_logits(name, tmp_path):
    family, pairs, *changes = NEWER[name]
    model = oracle(name, **(changes[0] if changes else {}))
    heads = [0, 2, 0] if family in ("lfm2", "lfm2moe", "granitehybrid") else None  # recurrent layers have none
    heads = [2, 1, 2, 1, 2, 1, 1] if name == "gemma4 moe" else heads
    heads = [0, 0, 4, 0] if name == "kimi linear" else heads
    if family == "apertus":
        for layer in model.model.layers:
            for one in XIELU[:2]:
                getattr(layer.mlp.act_fn, one).data.fill_(pairs[f"xielu.{one}"][0])
    pairs = [(key if key.startswith("xielu") else f"{family}.{key}", value) for key, value in pairs.items()]
    path = write(model, tmp_path / "tiny.gguf", family, FREQUENCIES.get(family, lambda tensors: None), pairs, heads)
    assert error(Runner(path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4


@pytest.mark.parametrize(("name", "largest"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemma_scales_its_heads_by_the_width_of_the_model(name, largest):
    sizes = {"block_count": largest, "embedding_length": 4608, "attention.head_count": 32, "context_length": 8192}
    sizes |= {"feed_forward_length": 96, "attention.key_length": 128, "attention.layer_norm_rms_epsilon": 1e-6}
    pairs = {"general.architecture": name} | {f"{name}.{key}": value for key, value in sizes.items()}
    arch = arch_from_gguf(pairs, {"token_embd.weight": (97, 4608)})
    assert {layer.mixer.scale for layer in arch.layers} == {144**-0.5}
    other = arch_from_gguf({**pairs, f"{name}.block_count": 26}, {"token_embd.weight": (97, 4608)})
    assert {layer.mixer.scale for layer in other.layers} == {None}


def test_factors_of_long_contexts_are_read_with_the_weights(tmp_path):
    model = oracle("phi3 longrope")
    rope = model.config.rope_parameters
    factors = {
        f"rope_factors_{kind}.weight": (np.array(rope[f"{kind}_factor"], np.float32), gguf.GGMLQuantizationType.F32)
        for kind in ("short", "long")
    }
    pairs = [
        ("phi3.rope.dimension_count", 12),
        ("phi3.rope.scaling.original_context_length", 32),
        ("phi3.rope.scaling.attn_factor", model.model.rotary_emb.attention_scaling),
    ]
    path = write(model, tmp_path / "tiny.gguf", "phi3", lambda tensors: tensors.update(factors), pairs)
    assert error(Runner(path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4
    short = Runner(path, max_model_len=32).logits(TOKENS[:32], 32)
    assert error(short, oracle_logits(model, TOKENS[:32])[-1:]) < 1e-4


def test_linear_rope_scaling_is_honoured(tmp_path):
    model = oracle("llama linear")
    pairs = [("llama.rope.scaling.type", "linear"), ("llama.rope.scaling.factor", 2.0)]
    path = write(model, tmp_path / "tiny.gguf", "llama", pairs=pairs)
    assert error(Runner(path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4


def random_blocks(kind, num_values):
    """Valid bytes of a type that the package can only read: its scales are kept finite."""
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (num_values // block_len, block_bytes), np.uint8)
    scale = np.full((len(blocks), 2), 0.01, np.float16).view(np.uint8)
    if kind == gguf.GGMLQuantizationType.Q6_K:
        blocks[:, -2:] = scale[:, :2]
    else:
        blocks[:, :4] = scale
    return blocks


@pytest.mark.parametrize("kind", QUANTISABLE + DEQUANTISABLE)
def test_every_quantization_is_read_as_the_package_reads_it(kind, tmp_path):
    from engine.checkpoint.gguf_file import read_index
    from engine.checkpoint.gguf_weights import _dequantized

    kind = gguf.GGMLQuantizationType[kind]
    values = np.random.default_rng(1).standard_normal((24, 512), np.float32)
    if kind.name in QUANTISABLE:
        data = gguf.quants.quantize(values, kind)
        expected = gguf.quants.dequantize(data, kind)
        assert np.abs(expected - values).max() < (0.8 if kind.name == "MXFP4" else 0.6)
    else:
        data = random_blocks(kind, values.size).reshape(24, -1)
        expected = gguf.quants.dequantize(data, kind)
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_tensor("one", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (info,) = read_index(tmp_path / "tiny.gguf")[1]
    assert (info.type, info.shape) == (kind.name, (24, 512))
    assert np.array_equal(_dequantized(tmp_path / "tiny.gguf", info).reshape(24, 512), expected)


def test_a_quantized_file_gives_the_logits_of_its_dequantized_weights(tmp_path):
    model = oracle("llama wide heads")  # rows of 80 values are no whole blocks: down stays fp32
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.shape[-1] % 32 == 0 and parameter.dim() == 2:
                rows = parameter.numpy()
                heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
                rows = neighbors(rows, heads) if heads else rows
                kind = gguf.GGMLQuantizationType.Q4_1
                rows = gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind)
                if heads:
                    rows = rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(rows)))

    def quantize(tensors):
        for name, (array, _) in tensors.items():
            if array.shape[-1] % 32 == 0 and array.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q4_1
                tensors[name] = (gguf.quants.quantize(np.ascontiguousarray(array), kind), kind)

    path = write(model, tmp_path / "tiny.gguf", "llama", quantize)
    assert error(Runner(path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4


def test_missing_and_unknown_tensors_are_named(tmp_path):
    model = oracle("llama2")
    path = write(model, tmp_path / "a.gguf", "llama", lambda tensors: tensors.pop("blk.2.ffn_up.weight"))
    with pytest.raises(ModelError, match=r"lack model\.layers\.2\.mlp\.up_proj\.weight"):
        Runner(path)
    extra = (np.zeros(4, np.float32), gguf.GGMLQuantizationType.F32)
    path = write(model, tmp_path / "b.gguf", "llama", lambda tensors: tensors.update({"blk.1.strange.weight": extra}))
    with pytest.raises(ModelError, match=r"blk\.1\.strange\.weight"):
        Runner(path)


def test_an_unknown_architecture_names_the_supported_ones(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="'rwkv7' is not supported; supported are llama, .*smollm3, arcee"):
        Runner(tmp_path / "tiny.gguf")
