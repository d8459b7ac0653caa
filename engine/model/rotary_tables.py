"""RoPE tables: cosine and sine of every position, as the kernels read them."""

import torch
from torch import Tensor

from engine.arch.mixer_spec import SelfAttention, rope_of
from engine.arch.model_arch import ModelArch
from engine.arch.rope import LongScaling, Rope, amplitude, frequencies
from engine.checkpoint.weights import Weights

__all__ = ["RotaryTables"]


class RotaryTables:
    """One table for each distinct RoPE of the model's layers."""

    def __init__(self, arch: ModelArch, weights: Weights, num_positions: int, device: torch.device) -> None:
        ropes = dict.fromkeys(rope_of(layer.mixer) for layer in arch.layers)
        divisors = None
        if weights.has("rope_freqs.weight"):
            divisors = weights.take("rope_freqs.weight", *weights.shape("rope_freqs.weight"), dtype=torch.float64).cpu()
        factors = _read_factors(weights)
        mixers = [layer.mixer for layer in arch.layers]
        local = {mixer.rope for mixer in mixers if isinstance(mixer, SelfAttention) and mixer.sliding_window}
        full = {rope_of(mixer) for mixer in mixers if not isinstance(mixer, SelfAttention) or not mixer.sliding_window}
        self._tables: dict[Rope | None, Tensor] = {
            rope: _table(rope, factors, num_positions, None if rope in local - full else divisors).to(device)
            for rope in ropes
            if rope is not None
        }
        self._tables[None] = torch.tensor([[1.0, 0.0]], device=device).repeat(num_positions, 1)

    def of(self, rope: Rope | None) -> Tensor:
        """[C, R] fp32, as kernels/rotary takes it."""
        return self._tables[rope]


def _read_factors(weights: Weights) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The short and the long factors of LongRoPE, where .gguf files have them among the weights."""
    names = [f"rope_factors_{name}.weight" for name in ("short", "long")]
    if not all(map(weights.has, names)):
        return None
    short, long = (tuple(weights.take(name, *weights.shape(name), dtype=torch.float64).tolist()) for name in names)
    return short, long


def _table(
    rope: Rope,
    factors: tuple[tuple[float, ...], tuple[float, ...]] | None,
    num_positions: int,
    divisors: Tensor | None,
) -> Tensor:
    """[C, R] fp32: cosines, then sines, of every position's angles."""
    scaling = rope.scaling
    if factors is not None and isinstance(scaling, LongScaling) and not scaling.long:
        scaling = LongScaling(*factors, scaling.original_context_len, scaling.amplitude)
    frequency = torch.tensor(frequencies(rope.theta, rope.dim, scaling, num_positions), dtype=torch.float64)
    if divisors is not None:
        frequency /= divisors
    if rope.inverse:
        frequency = -frequency
    angle = torch.arange(num_positions, dtype=torch.float64)[:, None] * frequency
    return (torch.cat((angle.cos(), angle.sin()), -1) * amplitude(scaling, num_positions)).float()
