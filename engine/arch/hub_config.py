"""What most families' config.json have in common, as specs: attention, MLP, sliding windows, and the whole decoder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from engine.arch.feed_forward_spec import Activation, DenseMlp, FeedForward, MoE, Router, UngatedMlp
from engine.arch.layer_spec import LayerSpec, Norms
from engine.arch.mixer_spec import Mixer, SelfAttention
from engine.arch.model_arch import ModelArch
from engine.arch.rope import ProportionalScaling, Rope
from engine.arch.rope_config import hub_rope, hub_scaling, scaled_context_len
from engine.errors import ModelError

__all__ = [
    "Config",
    "HubFamily",
    "activation_of",
    "attention",
    "decoder",
    "dense",
    "experts",
    "layer_norm",
    "rope_of",
    "ungated",
    "window_rope",
    "windowed",
    "windows",
]

Config = Mapping[str, Any]
Kind = TypeVar("Kind")
ACTIVATIONS: Mapping[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}  # of gated MLPs

UNGATED: Mapping[str, Literal["relu2", "gelu", "gelu_tanh"]] = {
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


class HubFamily(NamedTuple):
    """A model_type of the Hugging Face Hub."""

    read: Callable[[Config], ModelArch]
    defaults: Config = {}  # of transformers' config class, which a config.json may leave out
    names: Mapping[str, str] = {}  # parts of its weights' names -> those that the decoder takes
    layers_in_one: int = 1  # so many of ours are one in its weights' names: checkpoint/renamed_weights.py
    expert_stacks: str = ""  # how all experts of a layer are stacked in one tensor: checkpoint/stacked_experts.py


def attention(config: Config, **changes: Any) -> SelfAttention:
    num_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    fields: dict[str, Any] = {
        "num_heads": num_heads,
        "num_kv_heads": config.get("num_key_value_heads") or num_heads,
        "head_dim": head_dim,
        "rope": rope_of(config, head_dim),
    }
    return SelfAttention(**{**fields, **changes})


def rope_of(config: Config, head_dim: int) -> Rope:
    """Where layers differ, that of full-attention layers."""
    rope = hub_rope(config)
    scaling = hub_scaling(rope, config["max_position_embeddings"])
    is_whole = isinstance(scaling, ProportionalScaling)  # the others' frequencies are 0
    dim = head_dim if is_whole else int(head_dim * (rope.get("partial_rotary_factor") or 1.0))
    return Rope(float(rope["rope_theta"]), dim, scaling)


def window_rope(config: Config, dim: int, theta: float) -> Rope:
    """That of sliding-window layers. Old configs scale full attention alone, and may have no theta."""
    given = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    return Rope(float(given.get("rope_theta", theta)), dim, hub_scaling(given, config["max_position_embeddings"]))


def windows(config: Config, period: int | str | None = None) -> tuple[int, ...]:
    """Of each layer the sliding window in tokens, 0 without one. `period`: every n-th layer has full attention, 0: none
    has; config.json overrides it.
    """
    num_layers: int = config["num_hidden_layers"]
    window: int = config.get("sliding_window") or 0
    period = config.get("sliding_window_pattern") or period
    if period is None and not config.get("use_sliding_window"):
        return (0,) * num_layers
    if (kinds := config.get("layer_types")) is not None:
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    if isinstance(period, str):  # such as LLLG: local and global layers
        return tuple(window if period[layer % len(period)] == "L" else 0 for layer in range(num_layers))
    if period is not None:
        return tuple(0 if period and (layer + 1) % period == 0 else window for layer in range(num_layers))
    return tuple(0 if layer < config["max_window_layers"] else window for layer in range(num_layers))


def windowed(full: SelfAttention, sizes: Sequence[int], rope: Rope | None = None) -> list[SelfAttention]:
    """A mixer for each layer. `rope`: of the layers with a window; None: the same."""
    change = msgspec.structs.replace
    return [change(full, sliding_window=size, rope=rope or full.rope) if size else full for size in sizes]


def dense(config: Config, **changes: Any) -> DenseMlp:
    fields: dict[str, Any] = {"dim": config["intermediate_size"]}
    if "activation" not in changes:
        fields["activation"] = activation_of(config)
    return DenseMlp(**{**fields, **changes})


def ungated(config: Config, bias: bool, key: str = "hidden_act") -> UngatedMlp:
    """`key`: of the activation."""
    return UngatedMlp(dim=config["intermediate_size"], activation=_known(config[key], key, UNGATED), bias=bias)


def layer_norm(eps: float) -> dict[str, Any]:
    """What a decoder says of its norms that are LayerNorms with weights and biases."""
    return {"norm": "layer", "norm_parameters": "weight and bias", "norm_eps": eps}


def experts(config: Config, router: Router, dim: int, **changes: Any) -> MoE:
    fields: dict[str, Any] = {"router": router, "dim": dim}
    if "activation" not in changes:
        fields["activation"] = activation_of(config)
    return MoE(**{**fields, **changes})


def decoder(
    config: Config,
    mixers: Mixer | Sequence[Mixer | None],
    feed_forwards: FeedForward | Sequence[FeedForward | None],
    norms: Norms = "before",
    **changes: Any,
) -> ModelArch:
    """One mixer or feed-forward stands for all layers."""
    num_layers = config["num_hidden_layers"]
    mixers = mixers if isinstance(mixers, Sequence) else [mixers] * num_layers
    feed_forwards = feed_forwards if isinstance(feed_forwards, Sequence) else [feed_forwards] * num_layers
    if not len(mixers) == len(feed_forwards) == num_layers:
        raise ValueError(f"{len(mixers)} layer types for {num_layers} layers")
    pairs = zip(mixers, feed_forwards, strict=True)
    context_len = config["max_position_embeddings"]
    fields: dict[str, Any] = {
        "vocab_size": config["vocab_size"],
        "model_dim": config["hidden_size"],
        "layers": tuple(LayerSpec(mixer=mixer, feed_forward=ffn, norms=norms) for mixer, ffn in pairs),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "max_model_len": scaled_context_len(context_len, hub_scaling(hub_rope(config), context_len)),
        "tied": config.get("tie_word_embeddings", False),
    }
    return ModelArch(**{**fields, **changes})


def activation_of(config: Config) -> Activation:
    key = "hidden_activation" if config.get("hidden_activation") else "hidden_act"
    return _known(config.get(key, "silu"), key, ACTIVATIONS)


def _known(name: str, key: str, known: Mapping[str, Kind]) -> Kind:
    if name not in known:
        raise ModelError(f"{key} {name!r} is not supported; supported are {', '.join(known)}")
    return known[name]
