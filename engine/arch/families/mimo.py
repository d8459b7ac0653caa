"""Xiaomi's MiMo models."""

import msgspec

from engine.arch.families.deepseek import dense_first
from engine.arch.hub_config import Config, HubFamily, attention, decoder, rope_of, window_rope, windows
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB"]


def _mimo_v2_flash(config: Config) -> ModelArch:
    """Layers with a window have sinks and other KV heads; values are smaller than keys, and scaled."""
    config = _in_words(config)
    head_dim = config["head_dim"]
    full = attention(config, v_dim=config["v_head_dim"], qkv_bias=config["attention_bias"])
    share = (config.get("rope_parameters") or {}).get("sliding_attention", config).get("partial_rotary_factor")
    local = msgspec.structs.replace(
        full,
        num_kv_heads=config.get("swa_num_key_value_heads") or 2 * full.num_kv_heads,
        rope=window_rope(config, int(head_dim * (share or SHARE)), config["swa_rope_theta"]),
        sinks=config["add_swa_attention_sink_bias"],
    )
    full = msgspec.structs.replace(full, rope=rope_of(config, head_dim), sinks=config["add_full_attention_sink_bias"])
    mixers = [msgspec.structs.replace(local, sliding_window=size) if size else full for size in windows(config, 1)]
    scale = config.get("attention_value_scale") or 1.0
    # the output projection has no bias: it takes the values' factor
    return decoder(config, mixers, dense_first(config), weight_scales=(("self_attn.o_proj", scale),))


def _in_words(config: Config) -> Config:
    """The released config has numbers for kinds of layers, and a window without the query itself."""
    count = config["num_hidden_layers"]
    for key in ("head_dim", "num_attention_heads", "v_head_dim"):
        if config.get(f"swa_{key}") not in (None, config[key]):
            raise ModelError(f"swa_{key} is not supported other than {key}")
    pattern = config.get("hybrid_layer_pattern") or [int(layer > 0 and (layer + 1) % 6 > 0) for layer in range(count)]
    sparse = config.get("moe_layer_freq") or [int(layer > 0) for layer in range(count)]
    found = {
        "layer_types": ["sliding_attention" if kind else "full_attention" for kind in pattern],
        "mlp_layer_types": ["sparse" if kind else "dense" for kind in sparse],
        "rms_norm_eps": config.get("layernorm_epsilon", 1e-5),
    }
    size = config.get("sliding_window_size")
    window = {} if size is None else {"sliding_window": size + 1}
    factor = config.get("routed_scaling_factor") or 1.0  # null in the released one
    given = {key: value for key, value in config.items() if value is not None}
    return {**found, **given, **window, "routed_scaling_factor": factor}


SHARE = 0.334  # of a head's dimensions, those that are rotated

HUB = {
    "mimo_v2_flash": HubFamily(
        _mimo_v2_flash,
        {
            "num_key_value_heads": 4,
            "head_dim": 192,
            "v_head_dim": 128,
            "attention_bias": False,
            "attention_value_scale": 0.707,
            "partial_rotary_factor": SHARE,
            "rope_theta": 5_000_000.0,
            "swa_rope_theta": 10_000.0,
            "sliding_window": 129,
            "add_swa_attention_sink_bias": True,
            "add_full_attention_sink_bias": False,
            "norm_topk_prob": True,
        },
        {".self_attn.attention_sink_bias": ".self_attn.sinks"},
    )
}
