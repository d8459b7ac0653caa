"""Microsoft's Phi models."""

from engine.arch import gguf_config as gguf
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, layer_norm, ungated, windowed, windows
from engine.arch.model_arch import ModelArch
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
}


# -- GGUF


def _gguf_phi3(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.windowed(gguf.attention(file), gguf.windows(file)), gguf.dense(file))


GGUF = {"phi3": gguf.GgufFamily(_gguf_phi3, {"ffn_up": "mlp.gate_up_proj"})}
