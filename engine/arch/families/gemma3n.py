"""Google's Gemma 3n models: alternating updates, low-rank residuals, per-layer embeddings, sparse activations."""

import msgspec

from engine.arch.families.gemma4 import kv_sources, per_layer_embedding
from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, window_rope
from engine.arch.layer_spec import AltUp, DenseMlp
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB"]

SLIDING, FULL = "sliding_attention", "full_attention"


def _gemma3n(config: Config) -> ModelArch:
    if config.get("altup_active_idx"):
        raise ModelError("altup_active_idx is not supported; it must be 0")
    count = config["num_hidden_layers"]
    kinds = config.get("layer_types") or [FULL if (layer + 1) % 5 == 0 else SLIDING for layer in range(count)]
    full = attention(config, **biases(config), scale=1.0, qk_norm="head", v_norm=True)
    rope = window_rope(config, full.head_dim, config["rope_local_base_freq"])
    local = msgspec.structs.replace(full, sliding_window=config["sliding_window"], rope=rope)
    sources = kv_sources(kinds, config["num_kv_shared_layers"])
    mixers = [
        msgspec.structs.replace(local if kind == SLIDING else full, kv_from=source)
        for kind, source in zip(kinds, sources, strict=True)
    ]
    arch = decoder(
        config,
        mixers,
        [_mlp(config, layer) for layer in range(count)],
        "around",
        max_model_len=config["max_position_embeddings"],
        logit_cap=config.get("final_logit_softcapping") or 0.0,
        embedding_scale=config["hidden_size"] ** 0.5,
        rounds_embedding_scale=True,
        per_layer_embedding=per_layer_embedding(config),
        altup=AltUp(num_streams=config["altup_num_inputs"], scales_corrected=config["altup_correct_scale"]),
    )
    layers = tuple(msgspec.structs.replace(layer, laurel_rank=config["laurel_rank"]) for layer in arch.layers)
    return msgspec.structs.replace(arch, layers=layers)


def _mlp(config: Config, layer: int) -> DenseMlp:
    """One size and one sparsity for all layers, or one for each; by default the first ten are sparse."""
    dim, sparsity = config["intermediate_size"], config.get("activation_sparsity_pattern")
    if sparsity is None:
        sparsity = 0.95 if layer < 10 < config["num_hidden_layers"] else 0.0
    dim, sparsity = (one[layer] if isinstance(one, list) else one for one in (dim, sparsity))
    return dense(config, dim=dim, sparsity=float(sparsity))


DEFAULTS = {
    "vocab_size": 262_400,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32_768,
    "sliding_window": 512,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "final_logit_softcapping": 30.0,
    "vocab_size_per_layer_input": 262_144,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 15,
    "altup_num_inputs": 4,
    "altup_correct_scale": True,
    "laurel_rank": 64,
    "tie_word_embeddings": True,
}

HUB = {"gemma3n_text": HubFamily(_gemma3n, DEFAULTS)}
