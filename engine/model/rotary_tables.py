"""RoPE tables: cosine and sine of every position, as the kernels read them."""

import torch
from torch import Tensor

from engine.checkpoint.arch import ModelArch
from engine.checkpoint.rope import LongScaling, Rope, RopeScaling, amplitude, frequencies
from engine.checkpoint.weights import Weights

__all__ = ["RotaryTables"]


class RotaryTables:
    """One table for each distinct RoPE of the model's layers."""

    def __init__(self, arch: ModelArch, weights: Weights, num_positions: int, device: torch.device) -> None:
        self._arch = arch
        self._rope = Rope(arch.rope_theta, _with_factors(arch.rope_scaling, weights, arch.rotary_dim))
        divisors = None
        if weights.has("rope_freqs.weight"):
            divisors = weights.take("rope_freqs.weight", arch.rotary_dim // 2, dtype=torch.float64).cpu()
        self._tables = {self._rope: _table(self._rope, arch.rotary_dim, num_positions, divisors).to(device)}
        if arch.window_rope is not None:
            window = _table(arch.window_rope, arch.rotary_dim, num_positions, None)
            self._tables[arch.window_rope] = window.to(device)
        self._still_CR = torch.tensor([[1.0, 0.0]], device=device).repeat(num_positions, 1)

    def of_layer(self, index: int) -> Tensor:
        """[C, R] fp32, as kernels/rotary takes it."""
        if index in self._arch.nope_layers:
            return self._still_CR
        windowed = self._arch.sliding_windows[index] > 0
        return self._tables[(self._arch.window_rope if windowed else None) or self._rope]


def _with_factors(scaling: RopeScaling | None, weights: Weights, rotary_dim: int) -> RopeScaling | None:
    """Fills in LongRoPE factors from the weights, where .gguf files have them."""
    if not isinstance(scaling, LongScaling) or scaling.long:
        return scaling
    short, long = (
        tuple(weights.take(f"rope_factors_{name}.weight", rotary_dim // 2, dtype=torch.float64).tolist())
        for name in ("short", "long")
    )
    return LongScaling(short, long, scaling.original_context_len, scaling.amplitude)


def _table(rope: Rope, rotary_dim: int, num_positions: int, divisors: Tensor | None) -> Tensor:
    """[C, R] fp32: cosines, then sines, of every position's angles."""
    frequency = torch.tensor(frequencies(rope.theta, rotary_dim, rope.scaling, num_positions), dtype=torch.float64)
    if divisors is not None:
        frequency /= divisors
    angle = torch.arange(num_positions, dtype=torch.float64)[:, None] * frequency
    return (torch.cat((angle.cos(), angle.sin()), -1) * amplitude(rope.scaling)).float()
