"""OpenAI's gpt-oss models."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import Router
from engine.arch.hub_config import Config, HubFamily, attention, decoder, experts, windowed, windows
from engine.arch.model_arch import ModelArch
from engine.arch.rope import YarnScaling
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _gpt_oss(config: Config) -> ModelArch:
    for key, known in (("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)):
        if config.get(key, known) != known:
            raise ModelError(f"{key} {config[key]} is not supported; supported is {known}")
    router = Router(
        num_experts=config["num_local_experts"],
        experts_per_token=config["num_experts_per_tok"],
        renormalizes=True,
        bias=True,
    )
    full = attention(config, **biases(config), sinks=True)
    moe = experts(config, router, config["intermediate_size"], activation="clamped", bias=True)
    return decoder(config, windowed(full, windows(config, 2)), moe)


HUB = {
    "gpt_oss": HubFamily(
        _gpt_oss,
        {
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
            "attention_bias": True,
            "rope_theta": 150_000.0,
            "rms_norm_eps": 1e-5,
        },
        {".mlp.router.": ".mlp.gate."},
        expert_stacks="interleaved",
    )
}


# -- GGUF


def _gguf_gpt_oss(file: gguf.Metadata) -> ModelArch:
    full = gguf.attention(file, sinks=True)
    rope = full.rope
    if rope is not None and isinstance(rope.scaling, YarnScaling):
        scaling = msgspec.structs.replace(rope.scaling, whole_dims=False)
        full = msgspec.structs.replace(full, rope=msgspec.structs.replace(rope, scaling=scaling))
    moe = gguf.experts(file, renormalizes=True, router={"bias": True}, activation="clamped", bias=True)
    return gguf.decoder(file, gguf.windowed(full, gguf.windows(file, 2)), moe)


GGUF = {"gpt-oss": gguf.GgufFamily(_gguf_gpt_oss)}
