"""RoPE frequencies and their scaling to longer contexts (linear, dynamic NTK, YaRN, Llama 3, LongRoPE)."""

from math import ceil, floor, log, pi

import msgspec

__all__ = [
    "LinearScaling",
    "Llama3Scaling",
    "LongScaling",
    "ProportionalScaling",
    "Rope",
    "RopeScaling",
    "YarnScaling",
    "amplitude",
    "frequencies",
]


class LinearScaling(msgspec.Struct, frozen=True):
    """All positions are divided by one factor (position interpolation)."""

    factor: float


class Llama3Scaling(msgspec.Struct, frozen=True):
    """Low frequencies are divided by the factor, high ones kept, with a linear ramp between."""

    factor: float
    original_context_len: int
    low_freq_factor: float  # turns over the original context, below which the whole factor applies
    high_freq_factor: float  # turns above which a frequency is kept


class YarnScaling(msgspec.Struct, frozen=True):
    """YaRN: the ramp is linear over dimensions; rotated queries and keys are multiplied by `amplitude`."""

    factor: float
    original_context_len: int
    beta_fast: float  # turns over the original context from which on a dimension is kept
    beta_slow: float  # turns up to which the whole factor applies
    amplitude: float
    whole_dims: bool = True  # the ramp begins and ends at whole dimensions


class LongScaling(msgspec.Struct, frozen=True):
    """LongRoPE: each pair has its own factor; rotated queries and keys are multiplied by `amplitude`.

    The long factors apply to all positions if the context may be longer than the original one, else the short ones. (A
    switch inside a sequence would make its first keys wrong.)
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context_len: int
    amplitude: float
    short_amplitude: float | None = None  # beside the short factors; None: the same


class ProportionalScaling(msgspec.Struct, frozen=True):
    """The first pairs alone are rotated, by the frequencies that they have among all; positions are divided by
    `factor`."""

    rotated: float  # share of the pairs
    factor: float = 1.0


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongScaling | ProportionalScaling


class Rope(msgspec.Struct, frozen=True):
    """Rotary position embedding of the first `dim` dimensions of a head, half-rotated (NeoX)."""

    theta: float
    dim: int
    scaling: RopeScaling | None = None
    inverse: bool = False  # angles are negative

    def __post_init__(self) -> None:
        if self.dim % 2 or self.dim < 2:
            raise ValueError(f"{self.dim} dimensions are rotated")


def amplitude(scaling: RopeScaling | None, context_len: int) -> float:
    """The factor of rotated queries and keys (attention factor, mscale), for contexts of up to `context_len` tokens."""
    if isinstance(scaling, LongScaling) and context_len <= scaling.original_context_len:
        return scaling.amplitude if scaling.short_amplitude is None else scaling.short_amplitude
    return scaling.amplitude if isinstance(scaling, YarnScaling | LongScaling) else 1.0


def frequencies(theta: float, rotary_dim: int, scaling: RopeScaling | None, context_len: int) -> list[float]:
    """The angle per position of each of the rotary_dim / 2 pairs, for contexts of up to `context_len` tokens."""
    plain = [theta ** (-2 * i / rotary_dim) for i in range(rotary_dim // 2)]
    match scaling:
        case None:
            return plain
        case LinearScaling():
            return [frequency / scaling.factor for frequency in plain]
        case Llama3Scaling():
            return [_mixed(frequency, scaling.factor, _llama3_kept(frequency, scaling)) for frequency in plain]
        case YarnScaling():
            kept = _yarn_kept(theta, rotary_dim, scaling)
            return [_mixed(frequency, scaling.factor, share) for frequency, share in zip(plain, kept, strict=True)]
        case ProportionalScaling():
            count = int(scaling.rotated * rotary_dim // 2)
            return [frequency / scaling.factor if i < count else 0.0 for i, frequency in enumerate(plain)]
        case LongScaling():
            factors = scaling.long if context_len > scaling.original_context_len else scaling.short
            return [frequency / factor for frequency, factor in zip(plain, factors, strict=True)]


def _mixed(frequency: float, factor: float, kept: float) -> float:
    return frequency * kept + frequency / factor * (1 - kept)


def _llama3_kept(frequency: float, scaling: Llama3Scaling) -> float:
    turns = scaling.original_context_len * frequency / (2 * pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    return min(max((turns - scaling.low_freq_factor) / span, 0.0), 1.0)


def _yarn_kept(theta: float, rotary_dim: int, scaling: YarnScaling) -> list[float]:
    def pair_with(turns: float) -> float:
        return rotary_dim * log(scaling.original_context_len / (turns * 2 * pi)) / (2 * log(theta))

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.whole_dims:
        first, last = floor(first), ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    span = last - first or 0.001
    return [1 - min(max((i - first) / span, 0.0), 1.0) for i in range(rotary_dim // 2)]
