"""Google's Gemma 4 models: two head sizes, keys and values that late layers share, per-layer embeddings, experts."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import DenseMlp, FeedForward, Router
from engine.arch.hub_config import Config, HubFamily, activation_of, attention, decoder, dense, experts
from engine.arch.layer_spec import LayerSpec, PerLayerEmbedding
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.arch.rope_config import hub_scaling
from engine.errors import ModelError

__all__ = ["GGUF", "GGUF_NAMES", "HUB", "gguf_per_layer_embedding", "kv_sources", "per_layer_embedding"]

SLIDING, FULL = "sliding_attention", "full_attention"


def _gemma4(config: Config) -> ModelArch:
    if config.get("use_bidirectional_attention") == "all":
        raise ModelError("use_bidirectional_attention is not supported: such a model embeds texts, it does not chat")
    kinds = _kinds(config)
    sources = kv_sources(kinds, config["num_kv_shared_layers"])
    mixers = [_mixer(config, kinds[layer], layer, source) for layer, source in enumerate(sources)]
    arch = decoder(
        config,
        mixers,
        [_feed_forward(config, is_shared=source is not None) for source in sources],
        "around",
        max_model_len=config["max_position_embeddings"],
        logit_cap=config.get("final_logit_softcapping") or 0.0,
        embedding_scale=config["hidden_size"] ** 0.5,
        rounds_embedding_scale=True,
        per_layer_embedding=per_layer_embedding(config),
    )
    return msgspec.structs.replace(arch, layers=tuple(map(_with_output_scale, arch.layers)))


def _with_output_scale(layer: LayerSpec) -> LayerSpec:
    return msgspec.structs.replace(layer, output_scale=True)


def _kinds(config: Config) -> Sequence[str]:
    """Of each layer; the last one sees everything."""
    layers = range(config["num_hidden_layers"])
    kinds = config.get("layer_types") or [SLIDING if (layer + 1) % 6 else FULL for layer in layers]
    return [*kinds[:-1], FULL]


def kv_sources(kinds: Sequence[str], num_shared: int) -> list[int | None]:
    """Of each layer the one whose keys and values it reads: the last `num_shared` read those of the last layer of their
    kind before these; None: its own."""
    first = len(kinds) - num_shared
    last = {kind: layer for layer, kind in enumerate(kinds[:first])}
    return [None if layer < first else last[kind] for layer, kind in enumerate(kinds)]


def per_layer_embedding(config: Config) -> PerLayerEmbedding | None:
    dim = config.get("hidden_size_per_layer_input")
    if not dim:
        return None
    vocab_size = config["vocab_size_per_layer_input"]
    return PerLayerEmbedding(vocab_size=vocab_size, dim=dim, activation=activation_of(config))


def _mixer(config: Config, kind: str, layer: int, source: int | None) -> SelfAttention:
    rules: dict[str, Any] = {"sliding_window": config["sliding_window"]}
    if kind == FULL:
        config = {**config, **_full_attention_heads(config, layer)}
        rules = {"values_are_keys": config.get("attention_k_eq_v", False)}
    return attention(
        config,
        **biases(config),
        rope=_rope(config, kind),
        scale=1.0,
        qk_norm="head",
        v_norm=True,
        kv_from=source,
        **rules,
    )


def _rope(config: Config, kind: str) -> Rope:
    given: Config = (config.get("rope_parameters") or {}).get(kind) or ROPE[kind]
    scaling = hub_scaling(given, config["max_position_embeddings"])
    return Rope(float(given["rope_theta"]), config["head_dim"], scaling)


def _full_attention_heads(config: Config, layer: int) -> Config:
    """Released checkpoints have the sizes of all such layers; newer transformers writes them for each, under 04 say."""
    if (of_layers := config.get("per_layer_config")) is not None:
        found: Config = {int(index): heads for index, heads in of_layers.items()}.get(layer, {})
        return found
    heads = {"head_dim": config["global_head_dim"]}
    if config.get("attention_k_eq_v") and config.get("num_global_key_value_heads"):
        heads["num_key_value_heads"] = config["num_global_key_value_heads"]
    return heads


def _feed_forward(config: Config, is_shared: bool) -> FeedForward:
    """`is_shared`: of a layer that reads the keys and values of another."""
    wide = is_shared and config.get("use_double_wide_mlp", False)
    mlp = dense(config, dim=config["intermediate_size"] * (2 if wide else 1))
    if not config.get("enable_moe_block"):
        return mlp
    router = Router(
        num_experts=config["num_experts"],
        experts_per_token=config["top_k_experts"],
        renormalizes=True,
        norm=True,
        expert_scales=True,
    )
    return experts(config, router, config["moe_intermediate_size"], shared=mlp, norms_apart=True)


ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}

DEFAULTS = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "sliding_window": 512,
    "num_kv_shared_layers": 0,
    "tie_word_embeddings": True,
}
PER_LAYER = {"vocab_size_per_layer_input": 262_144, "hidden_size_per_layer_input": 256}
UNIFIED = {"max_position_embeddings": 262_144, "sliding_window": 1024}

# a family with experts has its MLP beside them, which is a shared expert
NAMES = {
    ".mlp.": ".mlp.shared_experts.",
    ".router.proj.": ".mlp.gate.",
    ".router.": ".mlp.gate.",
    ".experts.": ".mlp.experts.",
}

HUB = {
    "gemma4_text": HubFamily(_gemma4, {**DEFAULTS, **PER_LAYER}, NAMES, expert_stacks="rows"),
    "gemma4_unified_text": HubFamily(_gemma4, {**DEFAULTS, **UNIFIED}, NAMES),
}


# -- GGUF


def _gguf_gemma4(file: gguf.Metadata) -> ModelArch:
    count = gguf.num_layers(file)
    windows = gguf.windows(file, 6)
    kinds = [SLIDING if window else FULL for window in windows]
    sources = kv_sources(kinds, file.sizes.get("attention.shared_kv_layers") or 0)
    arch = gguf.decoder(
        file,
        [_gguf_mixer(file, layer, windows[layer], sources[layer]) for layer in range(count)],
        [_gguf_feed_forward(file, layer) for layer in range(count)],
        "around",
        max_model_len=file.sizes["context_length"],
        logit_cap=file.sizes.get("final_logit_softcapping") or 0.0,
        embedding_scale=file.sizes["embedding_length"] ** 0.5,
        rounds_embedding_scale=True,
        per_layer_embedding=gguf_per_layer_embedding(file),
    )
    return msgspec.structs.replace(arch, layers=tuple(map(_with_output_scale, arch.layers)))


def gguf_per_layer_embedding(file: gguf.Metadata) -> PerLayerEmbedding | None:
    if not (dim := file.sizes.get("embedding_length_per_layer_input")):
        return None
    return PerLayerEmbedding(vocab_size=file.shapes["per_layer_token_embd.weight"][0], dim=dim)


def _gguf_mixer(file: gguf.Metadata, layer: int, window: int, source: int | None) -> SelfAttention:
    """Which pairs are rotated where attention is full is among the weights (rope_freqs)."""
    sizes = file.sizes
    head_dim, theta = sizes["attention.key_length"], sizes.get("rope.freq_base", 1_000_000.0)
    if window:
        head_dim, theta = sizes["attention.key_length_swa"], sizes.get("rope.freq_base_swa", 10_000.0)
    num_kv_heads = sizes["attention.head_count_kv"]
    return gguf.attention(
        file,
        head_dim=head_dim,
        num_kv_heads=num_kv_heads if isinstance(num_kv_heads, int) else num_kv_heads[layer],
        rope=Rope(theta, head_dim),
        scale=1.0,
        qk_norm="head",
        v_norm=True,
        kv_from=source,
        sliding_window=window,
        values_are_keys=source is None and f"blk.{layer}.attn_v.weight" not in file.shapes,
    )


def _gguf_feed_forward(file: gguf.Metadata, layer: int) -> FeedForward:
    mlp = DenseMlp(dim=file.shapes[f"blk.{layer}.ffn_up.weight"][0], activation="gelu_tanh")
    if not file.sizes.get("expert_count"):
        return mlp
    router = {"norm": True, "expert_scales": True}
    return gguf.experts(file, True, router=router, shared=mlp, norms_apart=True, activation="gelu_tanh")


GGUF_NAMES = {
    "ffn_norm": "pre_feedforward_layernorm",
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
EXPERT_NAMES = {
    "ffn_gate": "mlp.shared_experts.gate_proj",
    "ffn_up": "mlp.shared_experts.up_proj",
    "ffn_down": "mlp.shared_experts.down_proj",
    "ffn_gate_inp.scale": "mlp.gate.scale",
    "ffn_down_exps.scale": "mlp.gate.per_expert_scale",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "layer_output_scale.weight": "layer_scalar",
}

GGUF = {"gemma4": gguf.GgufFamily(_gguf_gemma4, {**GGUF_NAMES, **EXPERT_NAMES})}
