"""EleutherAI's GPT-NeoX and Pythia models."""

from engine.arch import gguf_config as gguf
from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, layer_norm, ungated
from engine.arch.layer_spec import Norms
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _gpt_neox(config: Config) -> ModelArch:
    """Attention and MLP have a norm each, of the same sum where they are parallel."""
    names = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}
    config = {**{names[key]: config[key] for key in names if key in config}, **config}
    norms: Norms = "parallel_apart" if config["use_parallel_residual"] else "before"
    mixer = attention(config, **biases(config), num_kv_heads=config["num_attention_heads"])
    return decoder(config, mixer, ungated(config, True), norms, **layer_norm(config["layer_norm_eps"]))


HUB = {
    "gpt_neox": HubFamily(
        _gpt_neox,
        {
            "attention_bias": True,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.25,
            "use_parallel_residual": True,
        },
        {
            "gpt_neox.embed_in.": "model.embed_tokens.",
            "gpt_neox.final_layer_norm.": "model.norm.",
            "gpt_neox.layers.": "model.layers.",
            "embed_out.": "lm_head.",
            ".attention.query_key_value.": ".self_attn.grouped_qkv_proj.",
            ".attention.dense.": ".self_attn.o_proj.",
            ".mlp.dense_h_to_4h.": ".mlp.up_proj.",
            ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
        },
    )
}


# -- GGUF


def _gguf_gptneox(file: gguf.Metadata) -> ModelArch:
    """Queries, keys and values lie one after the other in one matrix."""
    norms: Norms = "parallel_apart" if file.sizes.get("use_parallel_residual", True) else "before"
    has_bias = "blk.0.attn_qkv.bias" in file.shapes
    mixer = gguf.attention(file, qkv_bias=has_bias)
    return gguf.decoder(file, mixer, gguf.ungated(file, "gelu"), norms, **gguf.layer_norm(file))


GGUF = {"gptneox": gguf.GgufFamily(_gguf_gptneox)}
