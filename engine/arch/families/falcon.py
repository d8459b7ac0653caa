"""TII's Falcon and Falcon-H1 models."""

import msgspec

from engine.arch import gguf_config as gguf
from engine.arch.families.granite import mamba2
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, layer_norm, ungated
from engine.arch.layer_spec import Norms
from engine.arch.mixer_spec import ParallelHeads
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _falcon(config: Config) -> ModelArch:
    """The first Falcon: parallel layers, with a norm each for attention and MLP in the larger models."""
    if config["alibi"]:
        raise ModelError("alibi is not supported; it must be false")
    is_new, num_heads = config["new_decoder_architecture"], config["num_attention_heads"]
    num_kv_heads = 1 if config["multi_query"] and not is_new else config.get("num_kv_heads") or num_heads
    sizes = {
        "num_key_value_heads": num_kv_heads,
        "intermediate_size": config.get("ffn_hidden_size") or 4 * config["hidden_size"],
    }
    norms: Norms = "parallel" if config["parallel_attn"] or is_new else "before"
    if is_new and (config.get("num_ln_in_parallel_attn") or 2) == 2:
        norms = "parallel_apart"
    config, bias = {**config, **sizes}, config["bias"]
    mixer, mlp = attention(config, qkv_bias=bias, out_bias=bias), ungated(config, bias, "activation")
    return decoder(config, mixer, mlp, norms, **layer_norm(config["layer_norm_epsilon"]))


def _falcon_h1(config: Config) -> ModelArch:
    """Attention and Mamba-2 in every layer, and factors all over, which the weights take in."""
    for key in ("attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias"):
        if config.get(key):
            raise ModelError(f"{key} is not supported; it must be false")
    mamba = msgspec.structs.replace(mamba2(config), norm=_norm(config))
    mixer = ParallelHeads(attention=attention(config), mamba=mamba)
    return decoder(
        config,
        mixer,
        dense(config),
        embedding_scale=config["embedding_multiplier"],
        logit_scale=config["lm_head_multiplier"],
        weight_scales=tuple(_weight_scales(config).items()),
    )


def _norm(config: Config) -> str:
    if not config.get("mamba_rms_norm", False):
        return ""
    return "before_gate" if config.get("mamba_norm_before_gate", True) else "after_gate"


def _weight_scales(config: Config) -> dict[str, float]:
    inputs, ssm_input = config["attention_in_multiplier"], config["ssm_in_multiplier"]
    gate, down = config.get("mlp_multipliers") or (1.0, 1.0)
    parts = zip("zxbc", (config.get("ssm_multipliers") or [1.0] * 5)[:4], strict=True)
    dt = (config.get("ssm_multipliers") or [1.0] * 5)[4]
    return {
        "self_attn.q_proj": inputs,
        "self_attn.k_proj": inputs * config["key_multiplier"],
        "self_attn.v_proj": inputs,
        "self_attn.o_proj": config["attention_out_multiplier"],
        **{f"mamba.in_proj_{name}": ssm_input * factor for name, factor in parts},
        "mamba.in_proj_dt": ssm_input * dt,
        "mamba.out_proj": config["ssm_out_multiplier"],
        "mlp.gate_proj": gate,
        "mlp.down_proj": down,
    }


FACTORS = "embedding lm_head attention_in attention_out key ssm_in ssm_out".split()

HUB = {
    "falcon": HubFamily(
        _falcon,
        {
            "activation": "gelu",
            "alibi": False,
            "bias": False,
            "layer_norm_epsilon": 1e-5,
            "max_position_embeddings": 2048,
            "multi_query": True,
            "new_decoder_architecture": False,
            "parallel_attn": True,
            "tie_word_embeddings": True,
        },
        {
            "transformer.word_embeddings.": "model.embed_tokens.",
            "transformer.ln_f.": "model.norm.",
            "transformer.h.": "model.layers.",
            ".self_attention.query_key_value.": ".self_attn.grouped_qkv_proj.",
            ".self_attention.dense.": ".self_attn.o_proj.",
            ".mlp.dense_h_to_4h.": ".mlp.up_proj.",
            ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
            ".ln_attn.": ".input_layernorm.",
            ".ln_mlp.": ".post_attention_layernorm.",
        },
    ),
    "falcon_h1": HubFamily(
        _falcon_h1,
        {
            "num_key_value_heads": 8,
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
            "mamba_d_state": 256,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "rms_norm_eps": 1e-5,
            **{f"{name}_multiplier": 1.0 for name in FACTORS},
        },
        {
            ".feed_forward.": ".mlp.",
            ".pre_ff_layernorm.": ".post_attention_layernorm.",
            "model.final_layernorm.": "model.norm.",
        },
    ),
}


# -- GGUF


def _gguf_falcon_h1(file: gguf.Metadata) -> ModelArch:
    """The file's weights have taken in all factors."""
    norm = "after_gate" if "blk.0.ssm_norm.weight" in file.shapes else ""
    mamba = msgspec.structs.replace(gguf.mamba2(file), norm=norm)
    mixer = ParallelHeads(attention=gguf.attention(file), mamba=mamba)
    return gguf.decoder(file, mixer, gguf.dense(file))


GGUF_NAMES = {**gguf.MAMBA_NAMES, "ffn_norm": "post_attention_layernorm.weight"}  # files have no kind there
GGUF = {"falcon-h1": gguf.GgufFamily(_gguf_falcon_h1, GGUF_NAMES)}
