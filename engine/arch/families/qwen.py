"""Alibaba's Qwen models, and JetBrains' Mellum 2, which is one with sliding windows."""

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import DenseMlp, FeedForward, Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, window_rope, windowed, windows
from engine.arch.mixer_spec import GatedDeltaNet, Mixer, OutputGate
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB", "sparse_layers"]


def _qwen2(config: Config) -> ModelArch:
    return decoder(config, windowed(attention(config, qkv_bias=True), windows(config)), dense(config))


def _qwen3(config: Config) -> ModelArch:
    full = attention(config, **biases(config), qk_norm="head")
    return decoder(config, windowed(full, windows(config)), dense(config))


def _qwen2_moe(config: Config) -> ModelArch:
    shared = dense(config, dim=config["shared_expert_intermediate_size"])
    full = attention(config, qkv_bias=config.get("qkv_bias", True))
    return decoder(config, windowed(full, windows(config)), sparse_layers(config, shared))


def _qwen3_moe(config: Config) -> ModelArch:
    full = attention(config, **biases(config), qk_norm="head")
    return decoder(config, windowed(full, windows(config)), sparse_layers(config))


def _mellum(config: Config) -> ModelArch:
    """Mellum 2: layers with windows have a rope of their own, and some are dense."""
    full = attention(config, **biases(config), qk_norm="head")
    assert full.rope is not None
    count = config["num_hidden_layers"]
    sizes = windows({**config, "layer_types": config.get("layer_types") or ["full_attention"] * count}, 1)
    kinds = config.get("mlp_layer_types") or ["sparse"] * count
    is_dense = [layer for layer, kind in enumerate(kinds) if kind == "dense"]
    mixers = windowed(full, sizes, window_rope(config, full.rope.dim, full.rope.theta))
    return decoder(config, mixers, sparse_layers({**config, "mlp_only_layers": is_dense}))


def _qwen3_next(config: Config) -> ModelArch:
    """Every n-th layer has gated attention, the others Gated DeltaNet."""
    ffns = sparse_layers(config, dense(config, dim=config["shared_expert_intermediate_size"]))
    return decoder(config, _hybrid_layers(config), ffns, norm_offset=1.0)


def _qwen3_5(config: Config) -> ModelArch:
    return decoder(config, _hybrid_layers(config), dense(config), norm_offset=1.0)


def _qwen3_5_moe(config: Config) -> ModelArch:
    shared = dense({**config, "intermediate_size": config["shared_expert_intermediate_size"]})
    ffns = sparse_layers({"norm_topk_prob": True, "intermediate_size": shared.dim, **config}, shared)
    return decoder(config, _hybrid_layers(config), ffns, norm_offset=1.0)


def _hybrid_layers(config: Config) -> list[Mixer]:
    full = attention(config, **biases(config), qk_norm="head", gate=OutputGate())
    linear = GatedDeltaNet(
        num_k_heads=config["linear_num_key_heads"],
        num_v_heads=config["linear_num_value_heads"],
        k_dim=config["linear_key_head_dim"],
        v_dim=config["linear_value_head_dim"],
        kernel_size=config["linear_conv_kernel_dim"],
    )
    period, num_layers = config.get("full_attention_interval") or 4, config["num_hidden_layers"]
    usual = ["linear_attention" if (layer + 1) % period else "full_attention" for layer in range(num_layers)]
    return [full if kind == "full_attention" else linear for kind in config.get("layer_types") or usual]


def sparse_layers(config: Config, shared: DenseMlp | None = None) -> list[FeedForward]:
    """Experts in every n-th layer, but for those that are listed as dense."""
    router = Router(
        num_experts=config.get("num_local_experts") or config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        renormalizes=config.get("norm_topk_prob", False),
    )
    moe = experts(config, router, config["moe_intermediate_size"], shared=shared, gates_shared=shared is not None)
    step, is_dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()
    mlp = dense(config)
    return [mlp if layer in is_dense or (layer + 1) % step else moe for layer in range(config["num_hidden_layers"])]


NEXT_DEFAULTS = {
    "partial_rotary_factor": 0.25,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}

HUB = {
    "mellum": HubFamily(
        _mellum, {"head_dim": 128, "norm_topk_prob": True, "rope_theta": 500_000.0, "sliding_window": 1024}
    ),
    "qwen3_next": HubFamily(_qwen3_next, {**NEXT_DEFAULTS, "norm_topk_prob": True, "num_key_value_heads": 2}),
    "qwen3_5_text": HubFamily(_qwen3_5, {**NEXT_DEFAULTS, "num_key_value_heads": 4}),
    "qwen3_5_moe_text": HubFamily(_qwen3_5_moe, {**NEXT_DEFAULTS, "num_key_value_heads": 2}, expert_stacks="rows"),
    "qwen2": HubFamily(_qwen2),
    "qwen2_moe": HubFamily(_qwen2_moe),
    "qwen3": HubFamily(_qwen3),
    "qwen3_moe": HubFamily(_qwen3_moe),
}


# -- GGUF


def _gguf_dense(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.windowed(gguf.attention(file), gguf.windows(file)), gguf.dense(file))


def _gguf_moe(file: gguf.Metadata) -> ModelArch:
    mixers = gguf.windowed(gguf.attention(file), gguf.windows(file))
    return gguf.decoder(file, mixers, gguf.experts(file, renormalizes=True))


def _gguf_qwen2moe(file: gguf.Metadata) -> ModelArch:
    moe = gguf.experts(file, renormalizes=False, gates_shared=True)
    return gguf.decoder(file, gguf.attention(file), gguf.sparse_layers(file, moe))


def _gguf_hybrid(file: gguf.Metadata) -> ModelArch:
    """Qwen3-Next and Qwen3.5."""
    sizes, shapes = file
    num_v_heads = sizes["ssm.time_step_rank"]
    linear = GatedDeltaNet(
        num_k_heads=sizes["ssm.group_count"],
        num_v_heads=num_v_heads,
        k_dim=sizes["ssm.state_size"],
        v_dim=sizes["ssm.inner_size"] // num_v_heads,
        kernel_size=sizes["ssm.conv_kernel"],
    )
    full = gguf.attention(file, qk_norm="head", gate=OutputGate())
    has_keys = [f"blk.{layer}.attn_k.weight" in shapes for layer in range(gguf.num_layers(file))]
    mixers: list[Mixer] = [full if attends else linear for attends in has_keys]
    if not sizes.get("expert_count"):
        return gguf.decoder(file, mixers, gguf.dense(file))
    return gguf.decoder(file, mixers, gguf.experts(file, renormalizes=True, gates_shared=True))


HYBRID_NAMES = {"attn_qkv": "linear_attn.in_proj_qkv", "attn_gate": "linear_attn.in_proj_z"}
GGUF = {
    "qwen3next": gguf.GgufFamily(_gguf_hybrid, HYBRID_NAMES),
    "qwen35": gguf.GgufFamily(_gguf_hybrid, HYBRID_NAMES, tiled_value_heads=True),
    "qwen35moe": gguf.GgufFamily(_gguf_hybrid, HYBRID_NAMES, tiled_value_heads=True),
    "qwen2": gguf.GgufFamily(_gguf_dense),
    "qwen2moe": gguf.GgufFamily(_gguf_qwen2moe),
    "qwen3": gguf.GgufFamily(_gguf_dense),
    "qwen3moe": gguf.GgufFamily(_gguf_moe),
}
