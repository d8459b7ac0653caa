"""Moonshot's Kimi Linear; Kimi K2 is among DeepSeek's models."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.deepseek import dense_first, gguf_latent_attention, latent_attention
from engine.arch.families.mistral import MIXTRAL_NAMES
from engine.arch.hub_config import Config, HubFamily, decoder
from engine.arch.mixer_spec import KimiDeltaAttention, Mixer
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["GGUF", "HUB", "deepseek_keys"]

# their keys -> those of DeepSeek-V3
KEYS = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "num_experts": "n_routed_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}
REQUIRED = {"mla_use_nope": True, "moe_router_activation_func": "sigmoid", "moe_layer_freq": 1}


def _kimi_linear(config: Config) -> ModelArch:
    """Mostly Kimi Delta Attention, and MLA without positions; MoE as DeepSeek-V3's."""
    for key, value in REQUIRED.items():
        if config.get(key, value) != value:
            raise ModelError(f"{key} is not supported as {config[key]!r}; it must be {value!r}")
    config = deepseek_keys(config)
    given: Config = config.get("linear_attn_config") or {}
    head_dim = given.get("head_dim", config["linear_head_dim"])
    linear = KimiDeltaAttention(
        num_heads=given.get("num_heads", config["linear_num_heads"]),
        head_dim=head_dim,
        kernel_size=given.get("short_conv_kernel_size", config["linear_conv_kernel_dim"]),
        gate_rank=head_dim,
    )
    full = latent_attention(config, rope=None)
    mixers: list[Mixer] = [full if kind == "full_attention" else linear for kind in _layer_types(config)]
    return decoder(config, mixers, dense_first(config))


def deepseek_keys(config: Config) -> Config:
    return {**config, **{KEYS[key]: value for key, value in config.items() if key in KEYS}}


def _layer_types(config: Config) -> list[str]:
    """`linear_attn_config` counts layers from 1."""
    count = config["num_hidden_layers"]
    if kinds := config.get("layer_types"):
        return list(kinds)
    full = (config.get("linear_attn_config") or {}).get("full_attn_layers")
    is_full = [layer + 1 in full if full is not None else layer > 0 and layer % 4 == 0 for layer in range(count)]
    return ["full_attention" if one else "linear_attention" for one in is_full]


HUB = {
    "kimi_linear": HubFamily(
        _kimi_linear,
        {
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "rms_norm_eps": 1e-5,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 2.446,
            "linear_head_dim": 128,
            "linear_num_heads": 32,
            "linear_conv_kernel_dim": 4,
            "max_position_embeddings": 1_048_576,
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
        },
        MIXTRAL_NAMES,
    )
}


# -- GGUF


def _gguf_kimi_linear(file: gguf.Metadata) -> ModelArch:
    sizes, shapes = file
    head_dim = sizes["kda.head_dim"]
    has_states = [f"blk.{layer}.ssm_f_a.weight" in shapes for layer in range(gguf.num_layers(file))]
    first = f"blk.{has_states.index(True)}"
    linear = KimiDeltaAttention(
        num_heads=shapes[f"{first}.ssm_dt.bias"][0] // head_dim,
        head_dim=head_dim,
        kernel_size=sizes["ssm.conv_kernel"],
        gate_rank=shapes[f"{first}.ssm_f_a.weight"][0],
    )
    full = msgspec.structs.replace(gguf_latent_attention(file), rope=None)
    mixers: list[Mixer] = [linear if one else full for one in has_states]
    return gguf.decoder(file, mixers, gguf.sparse_layers(file, gguf.experts(file, renormalizes=True)))


GGUF = {
    "kimi-linear": gguf.GgufFamily(
        _gguf_kimi_linear,
        {
            **{f"ssm_{gate}_{half}": f"self_attn.{gate}_{half}_proj" for gate in "fg" for half in "ab"},
            **{f"ssm_conv1d_{name}": f"self_attn.{name}_conv1d" for name in "qkv"},
            "ssm_beta": "self_attn.b_proj",
            "ssm_norm": "self_attn.o_norm",
            "ssm_a": "self_attn.A_log",
            "ssm_dt.bias": "self_attn.dt_bias",
        },
    )
}
