"""IBM's Granite models, and Naver's HyperCLOVA X SEED, which is one with norms around each block."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import FeedForward, MoE, Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, windows
from engine.arch.layer_spec import Norms
from engine.arch.mixer_spec import Mamba2, Mixer, SelfAttention
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _granite(config: Config) -> ModelArch:
    mixer = attention(config, **biases(config), scale=config["attention_multiplier"])
    return decoder(config, mixer, dense(config, bias=config.get("mlp_bias", False)), **_scales(config))


def _granite_swa(config: Config) -> ModelArch:
    mlp = dense(config, bias=config.get("mlp_bias", False))
    return decoder(config, _windowed_mixers(config), mlp, **_scales(config))


def _granitemoe_swa(config: Config) -> ModelArch:
    return decoder(config, _windowed_mixers(config), _moe(config), **_scales(config))


def _windowed_mixers(config: Config) -> list[SelfAttention]:
    """Sliding windows, attention sinks, and a rope of its own in each layer, or none."""
    full = attention(config, **biases(config), scale=config["attention_multiplier"], sinks=True)
    count = config["num_hidden_layers"]
    usual = ["sliding_attention" if layer % 4 else "full_attention" for layer in range(count)]
    sizes = windows({**config, "layer_types": config.get("layer_types") or usual}, 4)
    assert full.rope is not None
    thetas = config.get("layer_rope_theta") or [full.rope.theta] * count
    ropes = [msgspec.structs.replace(full.rope, theta=float(theta)) if theta else None for theta in thetas]
    return [
        msgspec.structs.replace(full, sliding_window=size, rope=rope) for size, rope in zip(sizes, ropes, strict=True)
    ]


def _hyperclovax(config: Config) -> ModelArch:
    norms: Norms = "around" if config["use_post_norm"] else "before"
    scales = {**_scales(config), "logit_scale": config["logits_scaling"]}
    mixer = attention(config, **biases(config), scale=config.get("attention_multiplier"))
    return decoder(config, mixer, dense(config, bias=config.get("mlp_bias", False)), norms, **scales)


def _granitemoe(config: Config) -> ModelArch:
    mixer = attention(config, **biases(config), scale=config["attention_multiplier"])
    return decoder(config, mixer, _moe(config), **_scales(config))


def _moe(config: Config) -> MoE:
    router = Router(
        num_experts=config["num_local_experts"], experts_per_token=config["num_experts_per_tok"], renormalizes=True
    )
    shared_dim = config.get("shared_intermediate_size")
    shared = dense(config, dim=shared_dim) if shared_dim else None
    return experts(config, router, config["intermediate_size"], shared=shared)


def _granite_hybrid(config: Config) -> ModelArch:
    """Granite 4: Mamba-2 layers, and some of attention, mostly without positions."""
    if config.get("position_embedding_type") == "rope":
        full = attention(config, **biases(config), scale=config["attention_multiplier"])
    else:
        full = attention(config, **biases(config), scale=config["attention_multiplier"], rope=None)
    mamba = mamba2(config)
    kinds = config.get("layer_types") or config.get("layers_block_type") or ["mamba"] * config["num_hidden_layers"]
    shared = dense(config, dim=config["shared_intermediate_size"])
    ffn: FeedForward = shared
    if config.get("num_local_experts"):
        router = Router(
            num_experts=config["num_local_experts"], experts_per_token=config["num_experts_per_tok"], renormalizes=True
        )
        ffn = experts(config, router, config["intermediate_size"], shared=shared)
    mixers = [full if kind in ("attention", "full_attention") else mamba for kind in kinds]
    return decoder(config, mixers, ffn, **_scales(config))


def _bamba(config: Config) -> ModelArch:
    """Bamba: every few layers attention, of which half of a head is rotated."""
    full = attention({**config, "partial_rotary_factor": 0.5}, **biases(config))
    mamba, indices = mamba2(config), config.get("attn_layer_indices") or ()
    mixers = [full if layer in indices else mamba for layer in range(config["num_hidden_layers"])]
    return decoder(config, mixers, dense(config, bias=config.get("mlp_bias", False)))


def mamba2(config: Config) -> Mamba2:
    head_dim = config.get("mamba_d_head", "auto")
    if head_dim == "auto":
        inner = config.get("mamba_d_ssm") or config["mamba_expand"] * config["hidden_size"]
        head_dim = inner // config["mamba_n_heads"]
    return Mamba2(
        num_heads=config["mamba_n_heads"],
        head_dim=head_dim,
        num_groups=config["mamba_n_groups"],
        state_dim=config["mamba_d_state"],
        kernel_size=config["mamba_d_conv"],
        conv_bias=config.get("mamba_conv_bias", True),
        bias=config.get("mamba_proj_bias", False),
        step_limit=step_limit(config),
    )


def step_limit(config: Config) -> tuple[float, float]:
    """JSON has no infinity: transformers writes {"__float__": "Infinity"}."""
    low, high = config.get("time_step_limit") or (0.0, "inf")
    return _number(low), _number(high)


def _number(given: Any) -> float:
    return float(given["__float__"] if isinstance(given, dict) else given)


def _scales(config: Config) -> dict[str, Any]:
    return {
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": 1 / config["logits_scaling"],
    }


DEFAULTS = dict.fromkeys(("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"), 1.0)
MOE_NAMES = {
    ".block_sparse_moe.router.layer.": ".mlp.gate.",
    ".block_sparse_moe.input_linear.weight": ".mlp.experts.gate_up_proj",
    ".block_sparse_moe.output_linear.weight": ".mlp.experts.down_proj",
    ".shared_mlp.input_linear.": ".mlp.shared_experts.gate_up_proj.",
    ".shared_mlp.output_linear.": ".mlp.shared_experts.down_proj.",
}

SWA_NAMES = {
    **MOE_NAMES,
    ".block_sparse_moe.router.": ".mlp.gate.",
    ".block_sparse_moe.experts.": ".mlp.experts.",
}

MAMBA_DEFAULTS = {
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}

HUB = {
    "granitemoehybrid": HubFamily(
        _granite_hybrid,
        {**DEFAULTS, **MAMBA_DEFAULTS, "shared_intermediate_size": 1024},
        MOE_NAMES,
        expert_stacks="rows",
    ),
    "bamba": HubFamily(
        _bamba,
        {**MAMBA_DEFAULTS, "rms_norm_eps": 1e-5},
        {
            ".feed_forward.": ".mlp.",
            ".pre_ff_layernorm.": ".post_attention_layernorm.",
            "model.final_layernorm.": "model.norm.",
        },
    ),
    "granite": HubFamily(_granite, DEFAULTS),
    "granite_swa": HubFamily(
        _granite_swa, {**DEFAULTS, "rms_norm_eps": 1e-5, "sliding_window": 128, "tie_word_embeddings": True}
    ),
    "granitemoe_swa": HubFamily(_granitemoe_swa, {**DEFAULTS, "sliding_window": 128}, SWA_NAMES, expert_stacks="rows"),
    "hyperclovax": HubFamily(
        _hyperclovax,
        {**DEFAULTS, "attention_multiplier": None, "use_post_norm": True},
        {
            ".post_attention_layernorm.": ".pre_feedforward_layernorm.",
            ".post_norm1.": ".post_attention_layernorm.",
            ".post_norm2.": ".post_feedforward_layernorm.",
        },
    ),
    "granitemoe": HubFamily(_granitemoe, DEFAULTS, MOE_NAMES, expert_stacks="rows"),
    "granitemoeshared": HubFamily(_granitemoe, DEFAULTS, MOE_NAMES, expert_stacks="rows"),
}


# -- GGUF


def _gguf_granite(file: gguf.Metadata) -> ModelArch:
    return _gguf_decoder(file, gguf.attention(file, scale=file.sizes.get("attention.scale")))


def _gguf_hybrid(file: gguf.Metadata) -> ModelArch:
    """Granite 4, and Bamba. Layers of attention are those with KV heads."""
    sizes = file.sizes
    heads = sizes["attention.head_count_kv"]
    full = gguf.attention(file, scale=sizes.get("attention.scale"))
    if not sizes.get("rope.scaling.finetuned", False):
        full = msgspec.structs.replace(full, rope=None)
    mamba = gguf.mamba2(file)
    return _gguf_decoder(file, [full if num_kv_heads else mamba for num_kv_heads in heads])


def _gguf_decoder(file: gguf.Metadata, mixers: Mixer | Sequence[Mixer]) -> ModelArch:
    sizes = file.sizes
    ffn: FeedForward
    if sizes.get("expert_count"):
        ffn = gguf.experts(file, renormalizes=True)
    else:
        ffn = gguf.dense(file, dim=file.shapes["blk.0.ffn_up.weight"][0])
    return gguf.decoder(
        file,
        mixers,
        ffn,
        embedding_scale=sizes.get("embedding_scale", 1.0),
        residual_scale=sizes.get("residual_scale", 1.0),
        logit_scale=1 / sizes.get("logit_scale", 1.0),
    )


GGUF = {
    "granite": gguf.GgufFamily(_gguf_granite, permuted_rope=True),
    "granitemoe": gguf.GgufFamily(_gguf_granite, permuted_rope=True),
    "granitehybrid": gguf.GgufFamily(_gguf_hybrid, gguf.MAMBA_NAMES, permuted_rope=True),
}
