"""BigCode's StarCoder 2."""

from engine.arch import gguf_config as gguf
from engine.arch.hub_config import Config, HubFamily, attention, decoder, layer_norm, ungated, windowed, windows
from engine.arch.model_arch import ModelArch

__all__ = ["GGUF", "HUB"]


def _starcoder2(config: Config) -> ModelArch:
    bias = config["use_bias"]
    mixers = windowed(attention(config, qkv_bias=bias, out_bias=bias), windows(config, 0))
    return decoder(config, mixers, ungated(config, bias), **layer_norm(config["norm_epsilon"]))


HUB = {
    "starcoder2": HubFamily(
        _starcoder2,
        {"use_bias": True, "norm_epsilon": 1e-5, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
        {".mlp.c_fc.": ".mlp.up_proj.", ".mlp.c_proj.": ".mlp.down_proj."},
    )
}


# -- GGUF


def _gguf_starcoder2(file: gguf.Metadata) -> ModelArch:
    mixers = gguf.windowed(gguf.attention(file), gguf.windows(file))
    return gguf.decoder(file, mixers, gguf.ungated(file, "gelu_tanh"), **gguf.layer_norm(file))


GGUF = {"starcoder2": gguf.GgufFamily(_gguf_starcoder2)}
