"""Meituan's LongCat-Flash: two attentions a layer, and experts whose result skips the second (arXiv 2509.01322)."""

import msgspec

from engine.arch.families.deepseek import latent_attention
from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import Config, HubFamily, decoder, dense, experts
from engine.arch.layer_spec import LayerSpec
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB"]


def _longcat_flash(config: Config) -> ModelArch:
    """One of its layers is two of ours: attention and MLP each, the experts beside the first one's MLP."""
    if config.get("router_bias"):
        raise ModelError("router_bias is not supported; it must be false")
    if config.get("zero_expert_type", "identity") != "identity":
        raise ModelError(f"zero_expert_type {config['zero_expert_type']!r} is not supported; supported is identity")
    sizes = {"num_hidden_layers": 2 * config["num_layers"], "intermediate_size": config["ffn_hidden_size"]}
    config = {**config, **sizes}
    dim = config["hidden_size"]
    mixer = latent_attention(config, latent_scale=(dim / config["kv_lora_rank"]) ** 0.5)
    assert mixer.scale is not None
    mixer = msgspec.structs.replace(mixer, scale=mixer.scale * (dim / mixer.q_rank) ** 0.5)
    arch = decoder(config, mixer, dense(config), interleaved_rope=True)
    router = Router(
        num_experts=config["n_routed_experts"],
        num_zero_experts=config.get("zero_expert_num") or 0,
        experts_per_token=config["moe_topk"],
        correction_bias=True,
        scale=config["routed_scaling_factor"],
    )
    shortcut = experts(config, router, config["expert_ffn_hidden_size"])

    def with_experts(index: int, layer: LayerSpec) -> LayerSpec:
        return layer if index % 2 else msgspec.structs.replace(layer, shortcut=shortcut)

    return msgspec.structs.replace(arch, layers=tuple(map(with_experts, range(arch.num_layers), arch.layers)))


DEFAULTS = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000_000.0,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_topk": 12,
    "n_routed_experts": 512,
    "zero_expert_num": 256,
    "expert_ffn_hidden_size": 2048,
    "routed_scaling_factor": 6.0,
}
NAMES = {".mlps.": ".mlp.", ".mlp.router.classifier.": ".mlp.gate.", ".mlp.router.": ".mlp.gate."}

HUB = {"longcat_flash": HubFamily(_longcat_flash, DEFAULTS, NAMES, layers_in_one=2)}
