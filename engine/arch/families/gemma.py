"""Google's Gemma models."""

from typing import Any

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, window_rope, windowed, windows
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _gemma(config: Config) -> ModelArch:
    # early ones say gelu and mean this
    return decoder(config, attention(config), dense(config, activation="gelu_tanh"), **_embedding(config))


def _gemma2(config: Config) -> ModelArch:
    full = _attention(config, soft_cap=config.get("attn_logit_softcapping") or 0.0)
    return _around(config, windowed(full, windows(config, 2)))


def _vaultgemma(config: Config) -> ModelArch:
    """VaultGemma: Gemma 2 without the norms behind its blocks."""
    full = _attention(config, soft_cap=config.get("attn_logit_softcapping") or 0.0)
    cap = config.get("final_logit_softcapping") or 0.0
    mixers = windowed(full, windows(config, 2))
    return decoder(config, mixers, dense(config), "before", logit_cap=cap, **_embedding(config))


def _gemma3(config: Config) -> ModelArch:
    full = _attention(config, qk_norm="head")
    assert full.rope is not None
    rope = window_rope(config, full.rope.dim, config["rope_local_base_freq"])
    # its context is the one after RoPE scaling
    return _around(config, windowed(full, windows(config, 6), rope), max_model_len=config["max_position_embeddings"])


def _attention(config: Config, **changes: Any) -> SelfAttention:
    if config.get("use_bidirectional_attention"):
        raise ModelError("use_bidirectional_attention is not supported: such a model embeds texts, it does not chat")
    return attention(config, **biases(config), scale=config["query_pre_attn_scalar"] ** -0.5, **changes)


def _around(config: Config, mixers: list[SelfAttention], **changes: Any) -> ModelArch:
    cap = config.get("final_logit_softcapping") or 0.0
    return decoder(config, mixers, dense(config), "around", logit_cap=cap, **_embedding(config), **changes)


def _embedding(config: Config) -> dict[str, Any]:
    return {
        "norm_offset": 1.0,
        "embedding_scale": config["hidden_size"] ** 0.5,
        "rounds_embedding_scale": True,
    }


DEFAULTS = {
    "hidden_activation": "gelu_pytorch_tanh",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}

GEMMA2_DEFAULTS = {
    **DEFAULTS,
    "max_position_embeddings": 8192,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}

HUB = {
    "gemma": HubFamily(_gemma, {"head_dim": 256, "tie_word_embeddings": True}),
    "gemma2": HubFamily(_gemma2, GEMMA2_DEFAULTS),
    "vaultgemma": HubFamily(
        _vaultgemma, GEMMA2_DEFAULTS, {".pre_feedforward_layernorm.": ".post_attention_layernorm."}
    ),
    "gemma3_text": HubFamily(
        _gemma3,
        {
            **DEFAULTS,
            "vocab_size": 262_208,
            "max_position_embeddings": 131_072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
        },
    ),
}


# -- GGUF


def _gguf_gemma(file: gguf.Metadata) -> ModelArch:
    mlp = gguf.dense(file, activation="gelu_tanh")
    return gguf.decoder(file, gguf.attention(file), mlp, **_gguf_embedding(file))


def _gguf_gemma2(file: gguf.Metadata) -> ModelArch:
    cap = file.sizes.get("attn_logit_softcapping", 50.0)
    full = gguf.attention(file, scale=_gguf_scale(file, 46), soft_cap=cap)
    return _gguf_around(file, gguf.windowed(full, gguf.windows(file, 2, size=4096)), 30.0)


def _gguf_gemma3(file: gguf.Metadata) -> ModelArch:
    full = gguf.attention(file, scale=_gguf_scale(file, 62))
    rope = gguf.rope_of(file, full.head_dim, theta=1_000_000.0)
    full = msgspec.structs.replace(full, rope=rope)
    local = Rope(file.sizes.get("rope.freq_base_swa", 10_000.0), rope.dim)
    mixers = gguf.windowed(full, gguf.windows(file, 6), local)
    # its context is the one after RoPE scaling
    return _gguf_around(file, mixers, 0.0, max_model_len=file.sizes["context_length"])


def _gguf_scale(file: gguf.Metadata, largest: int) -> float | None:
    """`largest`: the number of layers of the family's largest model, whose attention scale is another."""
    if file.sizes["block_count"] != largest:
        return None
    return float((file.sizes["embedding_length"] // file.sizes["attention.head_count"]) ** -0.5)


def _gguf_around(file: gguf.Metadata, mixers: list[SelfAttention], cap: float, **changes: Any) -> ModelArch:
    mlp = gguf.dense(file, activation="gelu_tanh")
    cap = file.sizes.get("final_logit_softcapping", cap)
    return gguf.decoder(file, mixers, mlp, "around", logit_cap=cap, **_gguf_embedding(file), **changes)


def _gguf_embedding(file: gguf.Metadata) -> dict[str, Any]:
    """The offset of the norms is in the file's weights."""
    return {"embedding_scale": file.sizes["embedding_length"] ** 0.5, "rounds_embedding_scale": True}


NAMES = {"ffn_norm": "pre_feedforward_layernorm"}

GGUF = {
    "gemma": gguf.GgufFamily(_gguf_gemma),
    "gemma2": gguf.GgufFamily(_gguf_gemma2, NAMES),
    "gemma3": gguf.GgufFamily(_gguf_gemma3, NAMES),
}
