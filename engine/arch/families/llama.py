"""Meta's Llama models, and those that follow them closely: SmolLM3, Arcee, Seed-OSS, Apertus, InternLM 3, IQuest Coder,
Helium, Jais 2.
"""

from typing import Any

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.feed_forward_spec import Router, UngatedMlp
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
from engine.arch.mixer_spec import QueryScaling, SelfAttention
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["GGUF", "HUB", "biases"]


def biases(config: Config) -> dict[str, Any]:
    """Of the attention layer, where one key of config.json sets all of them."""
    bias = config.get("attention_bias", False)
    return {"qkv_bias": bias, "out_bias": bias}


def _llama(config: Config) -> ModelArch:
    mlp = dense(config, bias=config.get("mlp_bias", False))
    return decoder(config, attention(config, **biases(config)), mlp)


def _internlm3(config: Config) -> ModelArch:
    """Its own code says `qkv_bias` and `bias` for what Llama says."""
    given = {"attention_bias": config.get("qkv_bias", False), "mlp_bias": config.get("bias", False)}
    return _llama({**given, **config})


def _helium(config: Config) -> ModelArch:
    mixer = attention(config, qkv_bias=config.get("attention_bias", False))
    return decoder(config, mixer, dense(config, bias=config.get("mlp_bias", False)), interleaved_rope=True)


def _cwm(config: Config) -> ModelArch:
    """Meta's Code World Model: every fourth layer, from the first on, sees all tokens."""
    usual = ["sliding_attention" if layer % 4 else "full_attention" for layer in range(config["num_hidden_layers"])]
    config = {**config, "layer_types": config.get("layer_types") or usual}
    return decoder(config, windowed(attention(config), windows(config, 4)), dense(config))


def _smollm3(config: Config) -> ModelArch:
    mixers = windowed(attention(config, **biases(config)), windows(config))
    rotates = _rotates(config)
    layers = [one if rotates[i] else msgspec.structs.replace(one, rope=None) for i, one in enumerate(mixers)]
    return decoder(config, layers, dense(config, bias=config.get("mlp_bias", False)))


def _rotates(config: Config) -> list[int]:
    """Whether a layer has rotary embedding, not NoPE."""
    if given := config.get("no_rope_layers"):
        return list(given)
    return [(layer + 1) % config["no_rope_layer_interval"] for layer in range(config["num_hidden_layers"])]


def _llama4(config: Config) -> ModelArch:
    """Llama 4: chunked attention with RoPE, and full attention without, whose queries grow with their position."""
    rope_layer = attention(
        config,
        **biases(config),
        attention_chunk=config["attention_chunk_size"] or 0,
        qk_norm="weightless" if config["use_qk_norm"] else "",
    )
    scaling = QueryScaling(config["attn_scale"], config["floor_scale"], offset=1)
    nope_layer = attention(
        config,
        **biases(config),
        rope=None,
        query_scaling=scaling if config["attn_temperature_tuning"] else None,
    )
    mixers: list[SelfAttention] = [rope_layer if rotates else nope_layer for rotates in _rotates(config)]
    step = config["interleave_moe_layer_step"]
    num_layers = config["num_hidden_layers"]
    moe_layers = config.get("moe_layers")
    moe_layers = range(step - 1, num_layers, step) if moe_layers is None else moe_layers
    router = Router(
        num_experts=config["num_local_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sigmoid",
        scales_inputs=True,
    )
    moe = experts(config, router, config["intermediate_size"], shared=dense(config))
    mlp = dense(config, dim=config["intermediate_size_mlp"])
    ffns = [moe if layer in moe_layers else mlp for layer in range(num_layers)]
    return decoder(config, mixers, ffns, interleaved_rope=True)


def _arcee(config: Config) -> ModelArch:
    _check_activation(config, "relu2")
    mlp = UngatedMlp(dim=config["intermediate_size"], activation="relu2", bias=config.get("mlp_bias", False))
    return decoder(config, attention(config, **biases(config)), mlp)


def _jais2(config: Config) -> ModelArch:
    mlp = ungated(config, config["mlp_bias"])
    return decoder(config, attention(config, **biases(config)), mlp, **layer_norm(config["layer_norm_eps"]))


def _apertus(config: Config) -> ModelArch:
    _check_activation(config, "xielu")
    mlp = UngatedMlp(dim=config["intermediate_size"], activation="xielu")
    return decoder(config, attention(config, **biases(config), qk_norm="head"), mlp)


def _seed_oss(config: Config) -> ModelArch:
    mixer = attention(
        config, qkv_bias=config.get("attention_bias", True), out_bias=config.get("attention_out_bias", False)
    )
    return decoder(config, mixer, dense(config, bias=config.get("mlp_bias", False)))


def _check_activation(config: Config, known: str) -> None:
    if (name := config.get("hidden_act", known)) != known:
        raise ModelError(f"hidden_act {name!r} is not supported; supported is {known}")


HUB = {
    "llama": HubFamily(_llama),
    "llama4_text": HubFamily(
        _llama4,
        {
            "head_dim": 128,
            "num_key_value_heads": 8,
            "intermediate_size_mlp": 16384,
            "num_experts_per_tok": 1,
            "num_local_experts": 16,
            "interleave_moe_layer_step": 1,
            "no_rope_layer_interval": 4,
            "use_qk_norm": True,
            "attention_chunk_size": 8192,
            "attn_temperature_tuning": True,
            "floor_scale": 8192,
            "attn_scale": 0.1,
            "rope_theta": 500_000.0,
            "rms_norm_eps": 1e-5,
        },
        {".feed_forward.": ".mlp.", ".router.": ".gate."},
        expert_stacks="halves",
    ),
    "smollm3": HubFamily(
        _smollm3, {"no_rope_layer_interval": 4, "rope_theta": 2_000_000.0, "tie_word_embeddings": True}
    ),
    "internlm3": HubFamily(_internlm3, {"head_dim": 128, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "iquestcoder": HubFamily(_llama, {"head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5}),
    "helium": HubFamily(_helium, {"head_dim": 128, "rms_norm_eps": 1e-8}),
    "cwm": HubFamily(
        _cwm,
        {
            "head_dim": 128,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "sliding_window": 8192,
        },
    ),
    "arcee": HubFamily(_arcee, {"rms_norm_eps": 1e-5}),
    "jais2": HubFamily(
        _jais2, {"attention_bias": True, "hidden_act": "relu2", "layer_norm_eps": 1e-5, "mlp_bias": True}
    ),
    "apertus": HubFamily(
        _apertus,
        {"rms_norm_eps": 1e-5, "rope_theta": 12_000_000.0},
        {".attention_layernorm.": ".input_layernorm.", ".feedforward_layernorm.": ".post_attention_layernorm."},
    ),
    "seed_oss": HubFamily(_seed_oss, {"head_dim": 128, "num_key_value_heads": 8}),
}


# -- GGUF

MAVERICK_EXPERTS = 128


def _gguf_llama(file: gguf.Metadata) -> ModelArch:
    """Mistral, Mixtral and SmolLM2 files too."""
    ffn = gguf.experts(file, renormalizes=True) if file.sizes.get("expert_count") else gguf.dense(file)
    return gguf.decoder(file, gguf.windowed(gguf.attention(file), gguf.windows(file)), ffn)


def _gguf_llama4(file: gguf.Metadata) -> ModelArch:
    """What a file does not say is that of Scout and Maverick. Only Scout, with 16 experts, norms queries and keys."""
    num_experts = file.sizes["expert_count"]
    full = gguf.attention(file)
    nope = msgspec.structs.replace(full, rope=None, query_scaling=QueryScaling(0.1, 8192, offset=1))
    rotated = msgspec.structs.replace(
        full, attention_chunk=8192, qk_norm="" if num_experts == MAVERICK_EXPERTS else "weightless"
    )
    mixers = [rotated if (layer + 1) % 4 else nope for layer in range(gguf.num_layers(file))]
    router = {"scoring": "sigmoid", "scales_inputs": True, "renormalizes": False}
    ffns = gguf.sparse_layers(file, gguf.experts(file, renormalizes=False, router=router))
    return gguf.decoder(file, mixers, ffns, interleaved_rope=True)


def _gguf_smollm3(file: gguf.Metadata) -> ModelArch:
    full = gguf.attention(file)
    nope = msgspec.structs.replace(full, rope=None)
    mixers = [nope if layer % 4 == 3 else full for layer in range(file.sizes["block_count"])]
    return gguf.decoder(file, mixers, gguf.dense(file))


def _gguf_arcee(file: gguf.Metadata) -> ModelArch:
    bias = "blk.0.ffn_down.bias" in file.shapes
    mlp = UngatedMlp(dim=file.sizes["feed_forward_length"], activation="relu2", bias=bias)
    return gguf.decoder(file, gguf.attention(file), mlp)


def _gguf_jais2(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file), gguf.ungated(file, "relu2"), **gguf.layer_norm(file))


def _gguf_apertus(file: gguf.Metadata) -> ModelArch:
    """The numbers of each layer's activation are in the metadata, not among the weights."""
    numbers = zip(*(file.sizes[f"xielu.{name}"] for name in ("alpha_p", "alpha_n", "beta", "eps")), strict=True)
    mlp = gguf.ungated(file, "xielu")
    mlps = [msgspec.structs.replace(mlp, xielu=tuple(each)) for each in numbers]
    return gguf.decoder(file, gguf.attention(file), mlps)


def _gguf_seed_oss(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file), gguf.dense(file))


GGUF = {
    "llama": gguf.GgufFamily(_gguf_llama, permuted_rope=True),
    "llama4": gguf.GgufFamily(_gguf_llama4),
    "smollm3": gguf.GgufFamily(_gguf_smollm3, permuted_rope=True),
    "arcee": gguf.GgufFamily(_gguf_arcee, permuted_rope=True),
    "jais2": gguf.GgufFamily(_gguf_jais2),
    "apertus": gguf.GgufFamily(_gguf_apertus),
    "seed_oss": gguf.GgufFamily(_gguf_seed_oss),
}
