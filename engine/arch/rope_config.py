"""Reads the RoPE scaling of a model, from config.json or from a GGUF file's metadata."""

from collections.abc import Container, Mapping
from math import log, sqrt
from typing import Any

from engine.arch.rope import LinearScaling, Llama3Scaling, LongScaling, ProportionalScaling, RopeScaling, YarnScaling
from engine.errors import ModelError

__all__ = ["gguf_scaling", "hub_rope", "hub_scaling", "scaled_context_len"]


def hub_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE parameters of config.json; where layers differ, those of full-attention layers."""
    given = config.get("rope_parameters") or {}
    # old configs have rope_theta at the top and the rest in rope_scaling, new ones all of it in rope_parameters
    old = {"rope_theta": 10000.0, **config, **(config.get("rope_scaling") or {})}
    return {**old, **(given.get("full_attention", given) or {})}


def hub_scaling(rope: Mapping[str, Any], context_len: int) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ("default", "mrope"):  # which text alone makes the same
        return None
    if kind == "linear":
        return LinearScaling(rope["factor"])
    if kind == "proportional":
        return ProportionalScaling(rope.get("partial_rotary_factor") or 1.0, rope.get("factor") or 1.0)
    original = rope.get("original_max_position_embeddings") or context_len
    if kind == "llama3":
        return Llama3Scaling(rope["factor"], original, rope["low_freq_factor"], rope["high_freq_factor"])
    if kind == "yarn":
        factor = rope.get("factor") or context_len / original
        return YarnScaling(
            factor,
            original,
            rope.get("beta_fast") or 32.0,
            rope.get("beta_slow") or 1.0,
            _yarn_amplitude(factor, rope),
            rope.get("truncate", True),
        )
    if kind in ("longrope", "su"):
        factor = rope.get("factor") or context_len / original
        return LongScaling(
            tuple(rope["short_factor"]), tuple(rope["long_factor"]), original, _long_amplitude(factor, original, rope)
        )
    raise ModelError(
        f"rope type {kind!r} is not supported; supported are default, linear, llama3, yarn, longrope, proportional"
    )


def gguf_scaling(sizes: Mapping[str, Any], tensors: Container[str]) -> RopeScaling | None:
    original = sizes.get("rope.scaling.original_context_length") or sizes["context_length"]
    if "rope_factors_long.weight" in tensors:  # the per-pair factors are among the weights
        return LongScaling((), (), original, sizes.get("rope.scaling.attn_factor", 1.0))
    kind, factor = sizes.get("rope.scaling.type", "none"), sizes.get("rope.scaling.factor", 0.0)
    if kind == "none" or not factor:
        return None
    if kind == "linear":
        return LinearScaling(factor)
    if kind == "yarn":
        told = {  # in the hub's meaning: the whole attention factor
            "attention_factor": sizes.get("rope.scaling.yarn_attn_factor"),
            "mscale": 1.0,
            "mscale_all_dim": sizes.get("rope.scaling.yarn_log_multiplier"),
        }
        amplitude = sizes.get("rope.scaling.attn_factor", 1.0) * _yarn_amplitude(factor, told)
        fast, slow = (sizes.get(f"rope.scaling.yarn_beta_{end}", by) for end, by in (("fast", 32.0), ("slow", 1.0)))
        return YarnScaling(factor, original, fast, slow, amplitude)
    raise ModelError(f"rope scaling {kind!r} is not supported; supported are none, linear, yarn")


def scaled_context_len(context_len: int, scaling: RopeScaling | None) -> int:
    match scaling:
        case LinearScaling():
            return int(context_len * scaling.factor)
        case YarnScaling():
            return max(context_len, int(scaling.original_context_len * scaling.factor))
        case _:
            return context_len


def _yarn_amplitude(factor: float, rope: Mapping[str, Any]) -> float:
    def grown(slope: float) -> float:
        return 0.1 * slope * log(factor) + 1.0 if factor > 1 else 1.0

    if (given := rope.get("attention_factor")) is not None:
        return float(given)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return grown(rope["mscale"]) / grown(rope["mscale_all_dim"])
    return grown(1.0)


def _long_amplitude(factor: float, original: int, rope: Mapping[str, Any]) -> float:
    if (given := rope.get("attention_factor")) is not None:
        return float(given)
    return sqrt(1 + log(factor) / log(original)) if factor > 1 else 1.0
