"""Google's Gemma 3n models: alternating updates, low-rank residuals, per-layer embeddings, sparse activations."""

from statistics import NormalDist

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.gemma4 import GGUF_NAMES, gguf_per_layer_embedding, kv_sources, per_layer_embedding
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import DenseMlp
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, window_rope
from engine.arch.layer_spec import AltUp
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]

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


# -- GGUF


def _gguf_gemma3n(file: gguf.Metadata) -> ModelArch:
    """Its converter knows four streams, and scales what it has corrected."""
    sizes = file.sizes
    full = gguf.attention(file, scale=1.0, qk_norm="head", v_norm=True)
    windows = gguf.windows(file, 5)
    local = Rope(sizes.get("rope.freq_base_swa", 10_000.0), full.head_dim)
    sources = kv_sources([SLIDING if window else FULL for window in windows], sizes["attention.shared_kv_layers"])
    pairs = zip(gguf.windowed(full, windows, local), sources, strict=True)
    arch = gguf.decoder(
        file,
        [msgspec.structs.replace(mixer, kv_from=source) for mixer, source in pairs],
        [_gguf_mlp(file, layer) for layer in range(gguf.num_layers(file))],
        "around",
        max_model_len=sizes["context_length"],
        logit_cap=sizes.get("final_logit_softcapping", 30.0),
        embedding_scale=sizes["embedding_length"] ** 0.5,
        rounds_embedding_scale=True,
        per_layer_embedding=gguf_per_layer_embedding(file),
        altup=AltUp(num_streams=sizes["altup.num_inputs"]),
    )
    rank = file.shapes["blk.0.laurel_l.weight"][0]
    return msgspec.structs.replace(
        arch, layers=tuple(msgspec.structs.replace(layer, laurel_rank=rank) for layer in arch.layers)
    )


def _gguf_mlp(file: gguf.Metadata, layer: int) -> DenseMlp:
    """Files have the quantile of a normal distribution, minus infinity for none."""
    sparsity = NormalDist().cdf(file.sizes["activation_sparsity_scale"][layer])
    dim = file.shapes[f"blk.{layer}.ffn_up.weight"][0]
    return DenseMlp(dim=dim, activation="gelu_tanh", sparsity=sparsity)


NAMES = {
    **GGUF_NAMES,
    "altup_correct_coef": "altup.correction_coefs",
    "altup_correct_scale.weight": "altup.correct_output_scale",
    "altup_predict_coef": "altup.prediction_coefs",
    "altup_router": "altup.modality_router",
    "altup_router_norm": "altup.router_norm",
    "laurel_l": "laurel.linear_left",
    "laurel_r": "laurel.linear_right",
    "laurel_post_norm": "laurel.post_laurel_norm",
}

GGUF = {"gemma3n": gguf.GgufFamily(_gguf_gemma3n, NAMES)}
