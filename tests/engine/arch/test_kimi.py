"""Kimi Linear's config.json, as it was released and as transformers writes it."""

import pytest

from engine.arch.feed_forward_spec import DenseMlp, MoE
from engine.arch.hub import arch_from_hub
from engine.arch.mixer_spec import KimiDeltaAttention, LatentAttention
from engine.errors import ModelError

SIZES = {
    "model_type": "kimi_linear",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "moe_intermediate_size": 48,
    "num_experts": 16,
    "num_experts_per_token": 4,
    "moe_renormalize": True,
    "num_expert_group": 1,
    "topk_group": 1,
    "model_max_length": 4096,
}
RELEASED = {
    **SIZES,
    "linear_attn_config": {
        "full_attn_layers": [3, 5],
        "kda_layers": [1, 2, 4],
        "head_dim": 16,
        "num_heads": 2,
        "short_conv_kernel_size": 3,
    },
    "first_k_dense_replace": 1,
    "mla_use_nope": True,
    "moe_layer_freq": 1,
    "moe_router_activation_func": "sigmoid",
    "rope_scaling": None,
    "rope_theta": 10000.0,
}
REWRITTEN = {
    **SIZES,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse", "sparse"],
    "linear_head_dim": 16,
    "linear_num_heads": 2,
    "linear_conv_kernel_dim": 3,
}


def test_a_released_config_is_the_model_of_a_rewritten_one() -> None:
    assert arch_from_hub(RELEASED) == arch_from_hub(REWRITTEN)


def test_layers_are_counted_from_one_in_a_released_config() -> None:
    arch = arch_from_hub(RELEASED)
    assert [layer for layer, spec in enumerate(arch.layers) if isinstance(spec.mixer, LatentAttention)] == [2, 4]
    assert arch.layers[0].mixer == KimiDeltaAttention(num_heads=2, head_dim=16, kernel_size=3, gate_rank=16)


def test_full_attention_has_no_rotary_embedding_and_the_first_layer_no_experts() -> None:
    arch = arch_from_hub(RELEASED)
    full = arch.layers[2].mixer
    assert isinstance(full, LatentAttention) and full.rope is None and full.q_rank == 0
    kinds = [type(layer.feed_forward) for layer in arch.layers]
    assert kinds == [DenseMlp, MoE, MoE, MoE, MoE]


@pytest.mark.parametrize(
    ("key", "value"), [("mla_use_nope", False), ("moe_router_activation_func", "softmax"), ("moe_layer_freq", 2)]
)
def test_what_no_release_has_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"{key} is not supported as {value!r}"):
        arch_from_hub({**RELEASED, key: value})
