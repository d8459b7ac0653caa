"""Flint: windows with sinks, full attention without positions, and experts behind two dense layers."""

import msgspec

from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, windowed, windows
from engine.arch.model_arch import ModelArch

__all__ = ["HUB"]


def _flint(config: Config) -> ModelArch:
    count = config["num_hidden_layers"]
    is_full = [layer < 2 or layer % 4 == 1 or layer == count - 1 for layer in range(count)]
    usual = ["full_attention" if one else "sliding_attention" for one in is_full]
    full = attention(config, **biases(config), qk_norm="head", sinks=True)
    sizes = windows({**config, "layer_types": config.get("layer_types") or usual}, 4)
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sigmoid",
        renormalizes=config["norm_topk_prob"],
    )
    shared = dense(config, dim=config["shared_expert_intermediate_size"])
    moe, mlp = experts(config, router, config["moe_intermediate_size"], shared=shared), dense(config)
    is_dense, step = config["mlp_only_layers"] or (), config.get("decoder_sparse_step") or 1
    ffns = [mlp if layer in is_dense or (layer + 1) % step else moe for layer in range(count)]
    return decoder(config, windowed(msgspec.structs.replace(full, rope=None), sizes, full.rope), ffns)


HUB = {
    "flint": HubFamily(
        _flint,
        {
            "head_dim": 128,
            "mlp_only_layers": (0, 1),
            "norm_topk_prob": True,
            "num_experts": 256,
            "num_experts_per_tok": 6,
            "num_key_value_heads": 4,
            "shared_expert_intermediate_size": 1024,
            "sliding_window": 513,
        },
        {".self_attn.softmax_offset": ".self_attn.sinks"},
    )
}
