"""What most families' GGUF metadata have in common, as specs. What the metadata lack follows from tensors' shapes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from engine.arch.feed_forward_spec import DenseMlp, FeedForward, MoE, Router, UngatedMlp
from engine.arch.layer_spec import LayerSpec, Norms
from engine.arch.mixer_spec import Mamba2, Mixer, SelfAttention
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.arch.rope_config import gguf_scaling, scaled_context_len

__all__ = [
    "MAMBA_NAMES",
    "GgufFamily",
    "Metadata",
    "attention",
    "decoder",
    "dense",
    "experts",
    "layer_norm",
    "mamba2",
    "num_layers",
    "rope_of",
    "sparse_layers",
    "ungated",
    "windowed",
    "windows",
]

SIGMOID = 2  # a value of expert_gating_func


MAMBA_NAMES = {
    **{f"ssm_{part}": f"mamba.{name}" for part, name in (("in", "in_proj"), ("conv1d", "conv1d"), ("out", "out_proj"))},
    "ssm_norm": "mamba.norm",
    "ssm_a": "mamba.A_log",
    "ssm_d": "mamba.D",
    "ssm_dt.bias": "mamba.dt_bias",
}


class Metadata(NamedTuple):
    """Of one file: `sizes` by key without the architecture's name, and the shapes of its tensors."""

    sizes: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]


class GgufFamily(NamedTuple):
    """An architecture of GGUF files."""

    read: Callable[[Metadata], ModelArch]
    names: Mapping[str, str] = {}  # its own tensor names, with or without their kind -> those that the decoder takes
    permuted_rope: bool = False  # q and k rows are for interleaved RoPE, where the hub's are half-rotated (NeoX)
    tiled_value_heads: bool = False  # of a gated delta net, where the hub's are grouped by key head


def attention(file: Metadata, **changes: Any) -> SelfAttention:
    sizes, shapes = file
    num_heads = _largest(sizes["attention.head_count"])
    head_dim = sizes.get("attention.key_length") or sizes["embedding_length"] // num_heads
    fields: dict[str, Any] = {
        "num_heads": num_heads,
        "num_kv_heads": _largest(sizes.get("attention.head_count_kv") or num_heads),
        "head_dim": head_dim,
        "qkv_bias": "blk.0.attn_q.bias" in shapes,
        "out_bias": "blk.0.attn_output.bias" in shapes,
        "qk_norm": "head" if "blk.0.attn_q_norm.weight" in shapes else "",
    }
    if "rope" not in changes:
        fields["rope"] = rope_of(file, head_dim)
    return SelfAttention(**{**fields, **changes})


def _largest(of_layers: int | Sequence[int]) -> int:
    """Layers without attention have 0 where a file tells heads of each layer."""
    return of_layers if isinstance(of_layers, int) else max(of_layers)


def mamba2(file: Metadata) -> Mamba2:
    sizes = file.sizes
    num_heads = sizes["ssm.time_step_rank"]
    return Mamba2(
        num_heads=num_heads,
        head_dim=sizes["ssm.inner_size"] // num_heads,
        num_groups=sizes["ssm.group_count"],
        state_dim=sizes["ssm.state_size"],
        kernel_size=sizes["ssm.conv_kernel"],
        conv_bias=any(name.endswith("ssm_conv1d.bias") for name in file.shapes),
    )


def rope_of(file: Metadata, head_dim: int, theta: float | None = None) -> Rope:
    """`theta`: where the file has none."""
    default = 10000.0 if theta is None else theta
    dim = file.sizes.get("rope.dimension_count") or head_dim
    return Rope(file.sizes.get("rope.freq_base", default), dim, gguf_scaling(*file))


def windows(file: Metadata, period: int = 0, size: int = 0) -> tuple[int, ...]:
    """Of each layer the sliding window in tokens, 0 without one. Every `period`-th layer has full attention, 0: none
    has. The file's metadata override it, and `size`.
    """
    window = file.sizes.get("attention.sliding_window", size)
    pattern = file.sizes.get("attention.sliding_window_pattern", period)
    if isinstance(pattern, int):
        pattern = [not pattern or (layer + 1) % pattern for layer in range(num_layers(file))]
    return tuple(window if windowed else 0 for windowed in pattern)


def windowed(full: SelfAttention, sizes: Sequence[int], rope: Rope | None = None) -> list[SelfAttention]:
    """A mixer for each layer. `rope`: of the layers with a window; None: the same."""
    change = msgspec.structs.replace
    return [change(full, sliding_window=size, rope=rope or full.rope) if size else full for size in sizes]


def dense(file: Metadata, **changes: Any) -> DenseMlp:
    fields: dict[str, Any] = {"dim": file.sizes["feed_forward_length"], "bias": "blk.0.ffn_down.bias" in file.shapes}
    return DenseMlp(**{**fields, **changes})


def ungated(file: Metadata, activation: Literal["relu2", "xielu", "gelu", "gelu_tanh"]) -> UngatedMlp:
    bias = "blk.0.ffn_up.bias" in file.shapes
    return UngatedMlp(dim=file.sizes["feed_forward_length"], activation=activation, bias=bias)


def layer_norm(file: Metadata) -> dict[str, Any]:
    """What a decoder says of its norms that are LayerNorms."""
    has_bias = "output_norm.bias" in file.shapes
    return {"norm": "layer", "norm_parameters": "weight and bias" if has_bias else "weight"}


def experts(file: Metadata, renormalizes: bool, **changes: Any) -> MoE:
    """`renormalizes`: if the file does not say. `changes`: of the MoE, or of its router under that name."""
    sizes, shapes = file
    router = {
        "num_experts": sizes["expert_count"],
        "experts_per_token": sizes["expert_used_count"],
        "scoring": "sigmoid" if sizes.get("expert_gating_func") == SIGMOID else "softmax",
        "renormalizes": sizes.get("expert_weights_norm", renormalizes),
        "correction_bias": any(name.endswith("exp_probs_b.bias") for name in shapes),
        "num_groups": sizes.get("expert_group_count") or 1,
        "groups_per_token": sizes.get("expert_group_used_count") or 1,
        "scale": sizes.get("expert_weights_scale") or 1.0,
        **changes.pop("router", {}),
    }
    dim = sizes.get("expert_feed_forward_length") or sizes["feed_forward_length"]
    shared_dims = {shape[0] for name, shape in shapes.items() if name.endswith("ffn_up_shexp.weight")}
    shared = DenseMlp(dim=max(shared_dims)) if shared_dims else None
    return MoE(**{"router": Router(**router), "dim": dim, "shared": shared, **changes})


def sparse_layers(file: Metadata, moe: MoE, mlp: DenseMlp | None = None) -> list[FeedForward]:
    """Experts where the file has a router. `mlp`: of the other layers; None: as the metadata say."""
    layers = range(num_layers(file))
    mlp = mlp or dense(file)
    return [moe if f"blk.{layer}.ffn_gate_inp.weight" in file.shapes else mlp for layer in layers]


def num_layers(file: Metadata) -> int:
    """Without those for multi-token prediction."""
    count: int = file.sizes["block_count"] - (file.sizes.get("nextn_predict_layers") or 0)
    return count


def decoder(
    file: Metadata,
    mixers: Mixer | Sequence[Mixer | None],
    feed_forwards: FeedForward | Sequence[FeedForward | None],
    norms: Norms = "before",
    **changes: Any,
) -> ModelArch:
    """One mixer or feed-forward stands for all layers."""
    sizes, shapes = file
    layers = num_layers(file)
    mixers = mixers if isinstance(mixers, Sequence) else [mixers] * layers
    feed_forwards = feed_forwards if isinstance(feed_forwards, Sequence) else [feed_forwards] * layers
    if not len(mixers) == len(feed_forwards) == layers:
        raise ValueError(f"{len(mixers)} layer types for {layers} layers")
    pairs = zip(mixers, feed_forwards, strict=True)
    fields: dict[str, Any] = {
        "vocab_size": shapes["token_embd.weight"][0],  # may be padded beyond the tokenizer's tokens
        "model_dim": sizes["embedding_length"],
        "layers": tuple(LayerSpec(mixer=mixer, feed_forward=ffn, norms=norms) for mixer, ffn in pairs),
        "head_bias": "output.bias" in shapes,
        "norm_eps": sizes.get("attention.layer_norm_rms_epsilon") or sizes["attention.layer_norm_epsilon"],
        "max_model_len": scaled_context_len(sizes["context_length"], gguf_scaling(*file)),
        "tied": "output.weight" not in shapes,
    }
    return ModelArch(**{**fields, **changes})
