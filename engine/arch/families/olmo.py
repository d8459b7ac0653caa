"""Ai2's OLMo models."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, window_rope, windowed, windows
from engine.arch.mixer_spec import GatedDeltaNet, SelfAttention
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _olmo(config: Config) -> ModelArch:
    """The first OLMo: LayerNorms without weights."""
    mixer = attention(config, **biases(config), qkv_clip=config.get("clip_qkv") or 0.0)
    return decoder(config, mixer, dense(config), norm="layer", norm_parameters="", norm_eps=1e-5)


def _olmo2(config: Config) -> ModelArch:
    return decoder(config, windowed(_attention(config), windows(config)), dense(config), "after")


def _olmo3(config: Config) -> ModelArch:
    full = _attention(config)
    assert full.rope is not None
    rope = window_rope(config, full.rope.dim, config["rope_theta"])
    return decoder(config, windowed(full, windows(config, 4), rope), dense(config), "after")


def _olmoe(config: Config) -> ModelArch:
    if config.get("clip_qkv") is not None:
        raise ModelError("clip_qkv is not supported; it must be null")
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        renormalizes=config.get("norm_topk_prob", False),
    )
    return decoder(config, _attention(config), experts(config, router, config["intermediate_size"]))


def _flex_olmo(config: Config) -> ModelArch:
    """FlexOlmo: OLMo 2 with experts in the place of its MLPs."""
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        renormalizes=config.get("norm_topk_prob", False),
    )
    return decoder(config, _attention(config), experts(config, router, config["intermediate_size"]), "after")


def _olmo_hybrid(config: Config) -> ModelArch:
    """OLMo Hybrid: Gated DeltaNet with norms before it, and OLMo 2's attention, mostly without positions."""
    full = _attention(config)
    if (config.get("rope_parameters") or {}).get("rope_theta") is None:
        full = msgspec.structs.replace(full, rope=None)
    num_heads, count = config["num_attention_heads"], config["num_hidden_layers"]
    num_k_heads = config.get("linear_num_key_heads") or num_heads
    k_dim = config.get("linear_key_head_dim") or int(0.75 * config["hidden_size"] / num_k_heads)
    linear = GatedDeltaNet(
        num_k_heads=num_k_heads,
        num_v_heads=config.get("linear_num_value_heads") or num_heads,
        k_dim=k_dim,
        v_dim=config.get("linear_value_head_dim") or 2 * k_dim,
        kernel_size=config["linear_conv_kernel_dim"],
        beta_scale=2.0 if config["linear_allow_neg_eigval"] else 1.0,
        norm_eps=1e-5,
        convs_apart=True,
    )
    usual = ["full_attention" if layer % 4 == 3 else "linear_attention" for layer in range(count)]
    is_linear = [kind == "linear_attention" for kind in config.get("layer_types") or usual]
    arch = decoder(config, [linear if one else full for one in is_linear], dense(config), "after")
    layers = (
        msgspec.structs.replace(layer, norms="before") if one else layer
        for layer, one in zip(arch.layers, is_linear, strict=True)
    )
    return msgspec.structs.replace(arch, layers=tuple(layers))


def _attention(config: Config) -> SelfAttention:
    return attention(config, **biases(config), qk_norm="whole")


HUB = {
    "olmo": HubFamily(_olmo),
    "olmo2": HubFamily(_olmo2),
    "olmo3": HubFamily(_olmo3, {"rope_theta": 500_000.0, "sliding_window": 4096}),
    "olmoe": HubFamily(_olmoe),
    "olmo_hybrid": HubFamily(
        _olmo_hybrid,
        {"linear_conv_kernel_dim": 4, "linear_allow_neg_eigval": True},
        {
            ".attention_layer_norm.": ".input_layernorm.",
            ".feedforward_layer_norm.": ".post_attention_layernorm.",
            **{f".linear_attn.{name}_proj.": f".linear_attn.in_proj_{name}." for name in "qkvab"},
            ".linear_attn.g_proj.": ".linear_attn.in_proj_z.",
            ".linear_attn.o_proj.": ".linear_attn.out_proj.",
            ".linear_attn.o_norm.": ".linear_attn.norm.",
        },
    ),
    "flex_olmo": HubFamily(_flex_olmo, {"rope_theta": 500_000.0}),
}


# -- GGUF


def _gguf_olmo(file: gguf.Metadata) -> ModelArch:
    mixer = gguf.attention(file, qkv_clip=file.sizes.get("attention.clamp_kqv") or 0.0)
    return gguf.decoder(file, mixer, gguf.dense(file), norm="layer", norm_parameters="")


def _gguf_olmo2(file: gguf.Metadata) -> ModelArch:
    """OLMo 3 files too, whose sliding-window layers have no RoPE scaling."""
    full = gguf.attention(file, qk_norm="whole")
    assert full.rope is not None
    rope = Rope(full.rope.theta, full.rope.dim)
    return gguf.decoder(file, gguf.windowed(full, gguf.windows(file, 4), rope), gguf.dense(file), "after")


def _gguf_olmoe(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file, qk_norm="whole"), gguf.experts(file, renormalizes=False))


GGUF = {
    "olmo": gguf.GgufFamily(_gguf_olmo, permuted_rope=True),
    "olmo2": gguf.GgufFamily(_gguf_olmo2),
    "olmoe": gguf.GgufFamily(_gguf_olmoe),
}
