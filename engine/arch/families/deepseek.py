"""DeepSeek's models, and dots.llm1, whose experts are theirs."""

from typing import Literal

from engine.arch.families.llama import biases
from engine.arch.hub_config import Config, HubFamily, attention, decoder, dense, experts, windowed, windows
from engine.arch.layer_spec import FeedForward, Router
from engine.arch.model_arch import ModelArch

__all__ = ["HUB", "dense_first"]


def dense_first(config: Config, scoring: Literal["softmax", "sigmoid"] = "sigmoid") -> list[FeedForward]:
    """DeepSeek-V3's: the first layers are dense, the others have experts in groups, chosen with a correction bias."""
    router = Router(
        num_experts=config["n_routed_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring=scoring,
        renormalizes=config.get("norm_topk_prob", True),
        correction_bias=True,
        num_groups=config.get("n_group") or 1,
        groups_per_token=config.get("topk_group") or 1,
        scale=config.get("routed_scaling_factor", 1.0),
    )
    num_shared, dim = config.get("n_shared_experts") or 0, config["moe_intermediate_size"]
    shared = dense(config, dim=dim * num_shared) if num_shared else None
    moe, mlp = experts(config, router, dim, shared=shared), dense(config)
    first = config.get("first_k_dense_replace") or 0
    return [mlp if layer < first else moe for layer in range(config["num_hidden_layers"])]


def _dots1(config: Config) -> ModelArch:
    full = attention(config, **biases(config), qk_norm="head")
    sizes = windows(config) if config.get("layer_types") is None else windows({**config, "use_sliding_window": True})
    return decoder(config, windowed(full, sizes), dense_first(config))


HUB = {"dots1": HubFamily(_dots1)}
