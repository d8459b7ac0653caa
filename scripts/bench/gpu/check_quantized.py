"""Correctness of group-quantized linear layers, against float64: all numbers of rows, all kinds of weights."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.kernel_set import KernelSet, triton_kernels
from kernels.quantized_linear.reference import GroupQuantized
from scripts.bench.gpu.cases import random_ints
from scripts.bench.gpu.compile_ahead import compile_ahead
from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["check_quantized"]

ROWS = 1, 2, 7, 16, 17, 33, 64, 100, 300
NO_DENSE = 64  # rows; more may be multiplied with a matrix that was rounded
# tensor cores cut off what they add up in float32
BOUNDS = {torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float32: 3e-5}
SERVED = torch.bfloat16, torch.float16
SHAPES = (6144, 4096), (1000, 1504)  # outputs, inputs; the second are no multiples of any tile's


def check_quantized(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Unit]:
    """bfloat16 with all kinds of weights, float16 with one."""
    if kernels.name != "triton":
        return
    for dtype in SERVED:
        for (num_out, num_in), bits, group, offsets in _kinds(tiny, dtype == SERVED[0]):
            yield unit(_quantized_linear, num_out, num_in, bits, group, offsets, dtype, device, tiny)


def _kinds(tiny: bool, every: bool) -> Iterator[tuple[tuple[int, int], int, int, bool]]:
    if tiny:
        yield (96, 256), 4, 64, True
        return
    yield SHAPES[0], 4, 128, True
    if not every:
        return
    yield SHAPES[0], 4, 128, False
    for group in 32, 64:
        for offsets in (True, False):
            yield SHAPES[0], 4, group, offsets
    for group, offsets in ((32, False), (64, True), (128, False), (4096, False)):
        yield SHAPES[0], 8, group, offsets
    for bits in (4, 8):
        yield SHAPES[1], bits, 32, True


def _quantized_linear(
    num_out: int,
    num_in: int,
    bits: int,
    group: int,
    offsets: bool,
    dtype: torch.dtype,
    device: torch.device,
    tiny: bool,
) -> Iterator[Row]:
    """What is not rounded at the end tells more: there are sums in float32 too."""
    counts = (1, 2, 17) if tiny else ROWS
    weight = random_ints(num_out, num_in, group, device, bits, offsets)
    x = torch.randn((counts[-1], num_in), device=device, dtype=dtype)
    shape = f"{num_in} x {num_out}, {bits} bits in groups of {group}{', offsets' if offsets else ''}"
    name = str(dtype).removeprefix("torch.")
    sets = {"": triton_kernels(), ", deterministic": triton_kernels(True)}
    began_s = time.perf_counter()
    num_variants = compile_ahead(lambda: _launch(sets, weight, x, counts), device)
    yield {"name": "compile", "shape": shape, "variants": num_variants, "s": round(time.perf_counter() - began_s, 2)}
    expected = x.double() @ weight.dense().double().T
    for kind, kernels in sets.items():
        for out_dtype in (dtype, torch.float32):
            assert kernels.quantized_linear is not None
            linear = kernels.quantized_linear(weight, None, out_dtype)
            outs = [linear(x[:count]) for count in counts]
            errors = {count: _error(out, expected[:count]) for count, out in zip(counts, outs, strict=True)}
            exact = counts[-1] if kernels.deterministic else NO_DENSE
            right = all(error < BOUNDS[out_dtype if n <= exact else dtype] for n, error in errors.items())  # NaN is not
            row = {"name": f"linear, {bits} bits", "shape": f"{shape}, {out_dtype}{kind}", "dtype": name}
            again = all(torch.equal(linear(x[:count]), out) for count, out in zip(counts, outs, strict=True))
            same = kernels.deterministic and _is_batch_invariant(linear(x), outs, linear, x)
            ok = right and again and (same or not kernels.deterministic)
            yield {**row, "errors": errors, "same_again": again, "batch_invariant": same, "ok": ok}


def _launch(sets: dict[str, KernelSet], weight: GroupQuantized, x: Tensor, counts: tuple[int, ...]) -> None:
    for kernels in sets.values():
        assert kernels.quantized_linear is not None
        for out_dtype in {x.dtype, torch.float32}:
            linear = kernels.quantized_linear(weight, None, out_dtype)
            for count in counts:
                linear(x[:count])


def _is_batch_invariant(whole: Tensor, outs: list[Tensor], linear: object, x: Tensor) -> bool:
    """From the front, and at other places."""
    assert callable(linear)
    order = torch.randperm(len(x), device=x.device)
    same = all(torch.equal(out, whole[: len(out)]) for out in outs)
    return same and all(torch.equal(linear(x[order[:count]]), whole[order[:count]]) for count in (1, len(x)))


def _error(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected).norm() / expected.norm())
