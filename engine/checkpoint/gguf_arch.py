"""The model architecture of a GGUF file, read from its metadata."""

from collections.abc import Mapping
from typing import Any

from engine.checkpoint.arch import ModelArch
from engine.checkpoint.gguf_families import GGUF_FLAGS, gguf_windows
from engine.checkpoint.rope_config import gguf_scaling, scaled_context_len
from engine.errors import ModelError

__all__ = ["arch_from_gguf"]


def arch_from_gguf(pairs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ModelArch:
    """Reads a .gguf file's metadata; what that lacks follows from the names and shapes of its tensors."""
    family = pairs.get("general.architecture")
    if not isinstance(family, str) or family not in GGUF_FLAGS:
        raise ModelError(f"architecture {family!r} is not supported; supported are {', '.join(GGUF_FLAGS)}")
    sizes = {name.removeprefix(f"{family}."): value for name, value in pairs.items()}
    try:
        return _from_gguf(family, sizes, shapes)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"the .gguf file's metadata is not complete: {type(error).__name__} {error}") from error


def _from_gguf(family: str, sizes: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ModelArch:
    num_heads = sizes["attention.head_count"]
    head_dim = sizes.get("attention.key_length") or sizes["embedding_length"] // num_heads
    scaling = gguf_scaling(sizes, shapes)
    fields = dict(
        vocab_size=shapes["token_embd.weight"][0],  # may be padded beyond the tokenizer's tokens
        model_dim=sizes["embedding_length"],
        ffn_dim=sizes["feed_forward_length"],
        num_layers=sizes["block_count"],
        num_heads=num_heads,
        num_kv_heads=sizes.get("attention.head_count_kv") or num_heads,
        head_dim=head_dim,
        rotary_dim=sizes.get("rope.dimension_count") or head_dim,
        rope_theta=sizes.get("rope.freq_base", 10000.0),
        rope_scaling=scaling,
        norm_eps=sizes["attention.layer_norm_rms_epsilon"],
        max_model_len=scaled_context_len(sizes["context_length"], scaling),
        sliding_windows=gguf_windows(family, sizes),
        tied="output.weight" not in shapes,
        qkv_bias="blk.0.attn_q.bias" in shapes,
        out_bias="blk.0.attn_output.bias" in shapes,
        ffn_bias="blk.0.ffn_down.bias" in shapes,
        qk_norm="blk.0.attn_q_norm.weight" in shapes,
    )
    return ModelArch(**{**fields, **GGUF_FLAGS[family](sizes)})
