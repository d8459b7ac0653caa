"""Latent attention and recurrent layers, in the shapes of DeepSeek-V3, Qwen3-Next and LFM2: right, and how fast."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.causal_conv import reference as conv_reference
from kernels.causal_conv.layout import StateLayout
from kernels.gated_delta_rule import reference as delta_reference
from kernels.gated_delta_rule.gates import DeltaGates
from kernels.kernel_set import KernelSet
from kernels.latent_attention import reference as latent_reference
from kernels.latent_attention.spec import LatentSpec
from kernels.paged_attention.spec import AttentionLayout
from scripts.bench.gpu.indexer import check_indexer, indexer_cases
from scripts.bench.gpu.kernels import Case, time_kernels
from scripts.bench.gpu.timing import Work
from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["check_and_time_mixers"]

BLOCK_SIZE = 16
BOUND = 1e-2


class Sizes(NamedTuple):
    """Of latent attention, of Qwen3-Next's delta rule, channels of its convolution."""

    rank: int = 512
    rope_dim: int = 64
    groups: int = 16
    heads: int = 32
    head_dim: int = 128
    channels: int = 8192


TINY = Sizes(32, 16, 1, 2, 16, 300)


def check_and_time_mixers(
    kernels: KernelSet, device: torch.device, ceilings: dict[str, float], tiny: bool
) -> Iterator[Unit]:
    yield unit(_check_latents, kernels, device, tiny)
    yield unit(_check_recurrent, kernels, device, tiny)
    yield unit(check_indexer, kernels, device, tiny)
    cases = (*_cases(kernels, device, tiny), *indexer_cases(kernels, device, tiny))
    yield from time_kernels(cases, device, ceilings)


def _check_latents(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Row]:
    sizes = TINY if tiny else Sizes()
    for num_heads in (3,) if tiny else (128, 16):
        for name, lens, counts in (
            ("decode", [1, 255, 256, 257, 3000], [1] * 5),
            ("mixed", [900, 64, 257], [300, 64, 2]),
        ):
            if tiny:
                lens, counts = [min(length, 40) for length in lens], [min(count, 3) for count in counts]
            q, cache, layout = _latents(lens, counts, num_heads, sizes, device)
            spec = LatentSpec(0.07, sizes.rank)
            out = kernels.latent_attention(q, cache, layout, spec)
            expected = latent_reference.latent_attention(q.float(), cache.float(), layout, spec)
            yield _row("latent attention", f"{name}, {num_heads} heads", out, expected)


def _check_recurrent(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Row]:
    sizes = TINY if tiny else Sizes()
    lens = [5, 1, 9] if tiny else [70, 1, 130]
    rows = torch.tensor([0, *torch.tensor(lens).cumsum(0)], dtype=torch.int32, device=device)
    layout = StateLayout(rows, rows.diff(), torch.tensor([2, 0, 1], device=device))
    for name, num_decays in _delta_rules(sizes).items():
        q, k, v, gates = _delta_inputs(sum(lens), num_decays, sizes, device)
        memories = [torch.zeros((3, sizes.heads, sizes.head_dim, sizes.head_dim), device=device) for _ in range(2)]
        out = kernels.gated_delta_rule(q, k, v, gates, memories[0], layout)
        expected = delta_reference.gated_delta_rule(q, k, v, gates, memories[1], layout)
        yield _row(name, str(lens), out, expected)
        yield _row(f"{name}, state", str(lens), memories[0], memories[1])
    x, weight = (
        torch.randn((sum(lens), sizes.channels), device=device).bfloat16(),
        torch.randn((sizes.channels, 4), device=device),
    )
    states = [torch.zeros((3, 3, sizes.channels), device=device, dtype=torch.bfloat16) for _ in range(2)]
    out = kernels.causal_conv(x, states[0], weight, None, layout, True)
    yield _row("convolution", str(lens), out, conv_reference.causal_conv(x, states[1], weight, None, layout, True))
    yield {"name": "convolution's states", "shape": str(lens), "ok": torch.equal(*states)}


def _row(name: str, shape: str, out: Tensor, expected: Tensor) -> Row:
    error = ((out.double() - expected.double()).norm() / expected.double().norm()).item()
    return {"name": name, "shape": shape, "dtype": "bfloat16", "error": error, "ok": error < BOUND}


def _cases(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    sizes = TINY if tiny else Sizes()
    loads = [(1, 20), (2, 33)] if tiny else [(1, 1024), (1, 8192), (32, 1024), (128, 1024), (32, 8192)]
    for num_heads in (3,) if tiny else (128, 16):
        for batch, context in loads:
            make = partial(_attend, kernels, ([context] * batch, [1] * batch), num_heads, sizes, device)
            yield Case(
                "latent attention",
                f"{batch} rows of {context}, {num_heads} heads",
                make,
                2 * batch * (context * (sizes.rank + sizes.rope_dim) + num_heads * (2 * sizes.rank + sizes.rope_dim)),
                2 * batch * context * num_heads * (2 * sizes.rank + sizes.rope_dim),
            )
        count = 9 if tiny else 2048
        yield Case(
            "latent attention",
            f"a prompt of {count}, {num_heads} heads",
            partial(_attend, kernels, ([count], [count]), num_heads, sizes, device),
            2 * count * (sizes.rank + sizes.rope_dim + num_heads * (2 * sizes.rank + sizes.rope_dim)),
            count * count * num_heads * (2 * sizes.rank + sizes.rope_dim),
        )
    state_bytes = 8 * sizes.heads * sizes.head_dim * sizes.head_dim  # read and written
    for batch, count in [(1, 3), (2, 1)] if tiny else [(1, 1), (64, 1), (1, 2048), (8, 256)]:
        num_flops = batch * count * sizes.heads * 8 * sizes.head_dim * sizes.head_dim
        for name, num_decays in _delta_rules(sizes).items():
            token_bytes = 2 * sizes.head_dim * 2 * (sizes.groups + sizes.heads) + 4 * sizes.heads * (num_decays + 1)
            make = partial(_delta, kernels, (batch, count, num_decays), sizes, device)
            num_bytes = batch * (state_bytes + count * token_bytes)
            yield Case(name, f"{batch} x {count} tokens", make, num_bytes, num_flops)
        num_bytes = 2 * batch * count * 2 * sizes.channels
        yield Case(
            "convolution", f"{batch} x {count} tokens", partial(_conv, kernels, batch, count, sizes, device), num_bytes
        )


def _latents(
    lens: list[int], counts: list[int], num_heads: int, sizes: Sizes, device: torch.device
) -> tuple[Tensor, Tensor, AttentionLayout]:
    """Shuffled blocks, as a server has them after a while."""
    widths = [-(-length // BLOCK_SIZE) for length in lens]
    order = torch.randperm(sum(widths), device=device, dtype=torch.int32)
    cache = torch.randn((len(order), 1, BLOCK_SIZE, sizes.rank + sizes.rope_dim), device=device).bfloat16()
    table = torch.full((len(lens), max(widths)), -1, dtype=torch.int32, device=device)
    for s, width in enumerate(widths):
        table[s, :width] = order[sum(widths[:s]) : sum(widths[: s + 1])]
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32, device=device)
    layout = AttentionLayout(starts, torch.tensor(lens, dtype=torch.int32, device=device), table)
    return torch.randn((sum(counts), num_heads, sizes.rank + sizes.rope_dim), device=device).bfloat16(), cache, layout


def _attend(
    kernels: KernelSet, rows: tuple[list[int], list[int]], num_heads: int, sizes: Sizes, device: torch.device
) -> Work:
    q, cache, layout = _latents(*rows, num_heads, sizes, device)
    return lambda: kernels.latent_attention(q, cache, layout, LatentSpec(0.07, sizes.rank))


def _delta_rules(sizes: Sizes) -> dict[str, int]:
    """How many decays a head has, of Gated DeltaNet and of Kimi Delta Attention."""
    return {"gated delta rule": 1, "gated delta rule by channel": sizes.head_dim}


def _delta_inputs(
    num_tokens: int, num_decays: int, sizes: Sizes, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, DeltaGates]:
    def random(*shape: int) -> Tensor:
        return torch.randn((num_tokens, *shape), device=device)

    q, k = (random(sizes.groups, sizes.head_dim).bfloat16() for _ in range(2))
    gates = DeltaGates(random(sizes.heads, num_decays).sigmoid(), random(sizes.heads).sigmoid())
    return q, k, random(sizes.heads, sizes.head_dim).bfloat16(), gates


def _layout(batch: int, count: int, device: torch.device) -> StateLayout:
    rows = torch.arange(batch + 1, dtype=torch.int32, device=device) * count
    return StateLayout(rows, rows.diff() + 1, torch.arange(batch, device=device))  # each goes on


def _delta(kernels: KernelSet, shape: tuple[int, int, int], sizes: Sizes, device: torch.device) -> Work:
    """`shape`: sequences, tokens of each, decays of a head."""
    batch, count, num_decays = shape
    inputs, layout = _delta_inputs(batch * count, num_decays, sizes, device), _layout(batch, count, device)
    memory = torch.zeros((batch, sizes.heads, sizes.head_dim, sizes.head_dim), device=device)
    return lambda: kernels.gated_delta_rule(*inputs, memory, layout)


def _conv(kernels: KernelSet, batch: int, count: int, sizes: Sizes, device: torch.device) -> Work:
    layout, weight = _layout(batch, count, device), torch.randn((sizes.channels, 4), device=device)
    x = torch.randn((batch * count, sizes.channels), device=device).bfloat16()
    state = torch.zeros((batch, 3, sizes.channels), device=device, dtype=torch.bfloat16)
    return lambda: kernels.causal_conv(x, state, weight, None, layout, True)
