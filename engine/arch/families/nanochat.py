"""Karpathy's nanochat."""

import msgspec

from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, ungated
from engine.arch.model_arch import ModelArch

__all__ = ["HUB"]


def _nanochat(config: Config) -> ModelArch:
    """No norm has weights, the embedding is normed, too, and the rotary embedding turns the other way."""
    mixer = attention(config, **biases(config), qk_norm="weightless")
    assert mixer.rope is not None
    mixer = msgspec.structs.replace(mixer, rope=msgspec.structs.replace(mixer.rope, inverse=True))
    cap = config.get("final_logit_softcapping") or 0.0
    mlp = ungated(config, False)
    return decoder(config, mixer, mlp, norm_parameters="", normed_embedding=True, logit_cap=cap)


HUB = {
    "nanochat": HubFamily(
        _nanochat,
        {"final_logit_softcapping": 15.0, "hidden_act": "relu2", "max_position_embeddings": 2048},
        {".mlp.fc1.": ".mlp.up_proj.", ".mlp.fc2.": ".mlp.down_proj."},
    )
}
