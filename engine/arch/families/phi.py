"""Microsoft's Phi models."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import (
    Config,
    HubFamily,
    attention,
    decoder,
    dense,
    experts,
    layer_norm,
    ungated,
    windowed,
    windows,
)
from engine.arch.model_arch import ModelArch
from engine.arch.rope import LongScaling
from engine.arch.rope_config import hub_rope
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _phi3(config: Config) -> ModelArch:
    """Its fused matrices: engine/checkpoint/fused_weights.py."""
    return decoder(config, windowed(attention(config), windows(config, 0)), dense(config))


def _phi(config: Config) -> ModelArch:
    """Phi-1, 1.5 and 2: one LayerNorm before attention and MLP, and biases everywhere."""
    if config.get("qk_layernorm"):
        raise ModelError("qk_layernorm is not supported; it must be false")
    mixer = attention(config, qkv_bias=True, out_bias=True)
    norms = layer_norm(config["layer_norm_eps"])
    return decoder(config, mixer, ungated(config, True), "parallel", **norms, head_bias=True)


def _phimoe(config: Config) -> ModelArch:
    """Phi-3.5 MoE: LongRoPE whose factor of queries and keys depends on the length, and a router of its own."""
    mixer = attention(config, **biases(config))
    rope, given = mixer.rope, hub_rope(config)
    if rope is not None and isinstance(rope.scaling, LongScaling):
        factors = {"amplitude": given["long_mscale"], "short_amplitude": given["short_mscale"]}
        scaling = msgspec.structs.replace(rope.scaling, **factors)
        mixer = msgspec.structs.replace(mixer, rope=msgspec.structs.replace(rope, scaling=scaling))
    router = Router(
        num_experts=config["num_local_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sparse_mixer",
        jitter=config["router_jitter_noise"],
    )
    return decoder(
        config,
        windowed(mixer, windows(config, 0)),
        experts(config, router, config["intermediate_size"]),
        **layer_norm(config["rms_norm_eps"]),
        head_bias=config["lm_head_bias"],
    )


HUB = {
    "phi": HubFamily(
        _phi,
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5},
        {
            "model.final_layernorm.": "model.norm.",
            ".self_attn.dense.": ".self_attn.o_proj.",
            ".mlp.fc1.": ".mlp.up_proj.",
            ".mlp.fc2.": ".mlp.down_proj.",
        },
    ),
    "phi3": HubFamily(_phi3),
    "phimoe": HubFamily(
        _phimoe,
        {
            "attention_bias": False,
            "lm_head_bias": False,
            "num_experts_per_tok": 2,
            "num_local_experts": 16,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "router_jitter_noise": 0.01,
        },
        {
            ".block_sparse_moe.": ".mlp.",
            ".mlp.router.": ".mlp.gate.",
            ".w1.": ".gate_proj.",
            ".w3.": ".up_proj.",
            ".w2.": ".down_proj.",
        },
    ),
}


# -- GGUF


def _gguf_phi3(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.windowed(gguf.attention(file), gguf.windows(file)), gguf.dense(file))


def _gguf_phi2(file: gguf.Metadata) -> ModelArch:
    mlp = gguf.ungated(file, "gelu_tanh")
    return gguf.decoder(file, gguf.attention(file), mlp, "parallel", **gguf.layer_norm(file))


def _gguf_phimoe(file: gguf.Metadata) -> ModelArch:
    """The router's jitter is not in the file: it is that of the released models."""
    router = {"scoring": "sparse_mixer", "jitter": 0.01, "renormalizes": False}
    moe = gguf.experts(file, renormalizes=False, router=router)
    mixers = gguf.windowed(gguf.attention(file), gguf.windows(file))
    return gguf.decoder(file, mixers, moe, **gguf.layer_norm(file))


GGUF = {
    "phi2": gguf.GgufFamily(_gguf_phi2),
    "phi3": gguf.GgufFamily(_gguf_phi3, {"ffn_up": "mlp.gate_up_proj"}),
    "phimoe": gguf.GgufFamily(_gguf_phimoe),
}
