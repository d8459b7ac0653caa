"""Ling 3's config.json: what tells it from Ling 2.5's, and the sizes of its heads."""

import pytest

from engine.arch.hub import arch_from_hub
from engine.arch.mixer_spec import KimiDeltaAttention, LatentAttention
from engine.errors import ModelError

CONFIG = {
    "model_type": "bailing_hybrid",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "head_dim": 16,
    "layer_group_size": 3,
    "kda_safe_gate": True,
    "kda_lower_bound": -5.0,
    "moe_intermediate_size": 48,
    "num_experts": 16,
    "num_experts_per_token": 4,
}
LINEAR = KimiDeltaAttention(num_heads=4, head_dim=16, kernel_size=4, log_decay_bound=-5.0)


def test_the_last_layer_of_every_group_has_full_attention_with_gates() -> None:
    layers = arch_from_hub(CONFIG).layers
    assert [layer.mixer == LINEAR for layer in layers] == [True, True, False] * 2
    full = layers[2].mixer
    assert isinstance(full, LatentAttention) and full.rope is not None and full.gate is not None


def test_heads_of_delta_attention_are_not_those_that_transformers_writes_of_full_attention() -> None:
    """Its `head_dim` becomes that of the rotary embedding."""
    layers = arch_from_hub({**CONFIG, "head_dim": 64, "linear_head_dim": 16}).layers
    assert layers[0].mixer == LINEAR


def test_decays_without_a_bound_are_those_of_kimi_linear() -> None:
    mixer = arch_from_hub({**CONFIG, "kda_safe_gate": False}).layers[0].mixer
    assert isinstance(mixer, KimiDeltaAttention) and mixer.log_decay_bound is None


def test_a_config_of_ling_2_5_is_refused_with_what_is_missing() -> None:
    older = {key: value for key, value in CONFIG.items() if not key.startswith("kda_")}
    with pytest.raises(ModelError, match=r"kda_lower_bound: the lightning attention of Ling 2\.5"):
        arch_from_hub(older)
