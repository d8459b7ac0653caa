"""Correctness of kernels on a GPU: against float64 at real sizes; batch invariance; CUDA graphs with new lengths."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor

from engine.model.block_tables import BlockTables
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from kernels.gated_activation import reference as gate_reference
from kernels.kernel_set import KernelSet, triton_kernels
from kernels.operations import QkvRotary
from kernels.qkv_rotary import reference as qkv_reference
from kernels.qkv_rotary.spec import QkvSpec
from kernels.rms_norm import reference as norm_reference
from scripts.bench.gpu.cases import Attention, AttentionRules, AttentionShape, make_attention
from scripts.bench.gpu.check_families import check_families
from scripts.bench.gpu.check_quantized import check_quantized
from scripts.bench.gpu.check_sampling import check_sampling
from scripts.bench.gpu.compile_ahead import compile_ahead
from scripts.bench.gpu.peers import check_peers
from scripts.bench.gpu.random_model import LLAMA_8B, TINY, RandomModel
from scripts.bench.gpu.registers import check_registers
from scripts.bench.gpu.units import Row, Unit, unit

__all__ = ["check"]

BOUNDS = {torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float32: 1e-5}
SERVED = torch.bfloat16, torch.float16
LENS = [1, 17, 255, 256, 257, 1000, 5000, 20_000]
LINEAR = 300, 4096, 6144  # rows, inputs, outputs
RULES: dict[str, dict[str, Any]] = {
    "soft-cap 20": {"soft_cap": 20.0},
    "sinks": {"sinks": True},
    "soft-cap and sinks": {"soft_cap": 20.0, "sinks": True, "logarithms": True},
    "blocks of 64": {"block_size": 64},
    "fp8 cache": {"fp8": True},
    "fp8 cache, blocks of 64": {"fp8": True, "block_size": 64},
}
SHAPES = [((32, 8), 128), ((9, 3), 64), ((32, 32), 80), ((8, 1), 256)]  # (heads, KV heads), head size


def check(kernels: KernelSet, device: torch.device, tiny: bool, full: bool = True) -> Iterator[Unit]:
    """`full`: in float32 too, what the compiler made of every kernel, and the peers. What raises fails, and the rest is
    checked all the same.
    """
    shapes = [((4, 2), 64)] if tiny else SHAPES
    num_rows, size = (3, (3, 96)) if tiny else (1000, (1000, 4096))
    for dtype in BOUNDS if full else SERVED:
        for heads, head_dim in shapes:
            if not _is_shipped(dtype, head_dim):
                continue
            model = kernels, heads, head_dim, dtype, device
            yield unit(_compiled, *model, tiny)
            yield from _attention(*model, tiny)
            yield unit(_qkv_rotary, *model, num_rows)
            if _has_rules(dtype, head_dim):
                yield from _rules(*model, tiny)
            if dtype == torch.bfloat16:
                yield unit(_float8_writes, kernels, heads, head_dim, device, num_rows)
        yield unit(_norm, kernels, *size, dtype, device)
        yield unit(_unrounded, kernels, *((5, 64, 96) if tiny else LINEAR), dtype, device)
        for num_out, num_in in [(48, 96)] if tiny else [(6144, 4096), (4096, 14336), (1000, 1000)]:
            yield unit(_one_row, kernels, num_out, num_in, dtype, device)
        yield unit(_gate, kernels, *size, dtype, device)
        yield unit(check_families, kernels, dtype, device, tiny, _row)
        if kernels.name == "triton":
            if dtype == SERVED[0]:
                yield from check_quantized(kernels, device, tiny)
            yield unit(_linear, triton_kernels(True), *((70, 64, 96) if tiny else LINEAR), dtype, device)
        if dtype == torch.bfloat16:
            if kernels.name == "triton":
                yield unit(_model, device, tiny)
            yield unit(check_sampling, kernels, device, 2000 if tiny else 128_256)
    if full:
        yield unit(check_registers, device)
        yield unit(check_peers, device)


def _is_shipped(dtype: torch.dtype, head_dim: int) -> bool:
    return dtype != torch.float32 or head_dim <= 128  # which does not fit in shared memory


def _has_rules(dtype: torch.dtype, head_dim: int) -> bool:
    """All of bfloat16, which is what is served; float16 where it differs in nothing else."""
    return dtype == torch.bfloat16 or (dtype == torch.float16 and head_dim == 128)


def _compiled(
    kernels: KernelSet, heads: tuple[int, int], head_dim: int, dtype: torch.dtype, device: torch.device, tiny: bool
) -> Row:
    """What the attention that is checked next launches, nine of ten kernels of all, on all cores."""

    def launch() -> None:
        for _, make in _plain_cases(heads, head_dim, dtype, device, tiny):
            case = make()
            few = {int(count): seq for seq, count in enumerate(case.query_starts.diff().clamp(max=2))}
            for seq in few.values():
                kernels.paged_attention(*case.alone(seq).arguments())
            kernels.paged_attention(*case.arguments())
        if _has_rules(dtype, head_dim):
            for _, make in _rule_cases(heads, head_dim, dtype, device, tiny):
                kernels.paged_attention(*make().arguments())

    began_s = time.perf_counter()
    num_variants = compile_ahead(launch, device)
    took_s = round(time.perf_counter() - began_s, 2)
    return {"name": "compile", "shape": f"{heads[0]}/{heads[1]} x {head_dim}", "variants": num_variants, "s": took_s}


def _plain_cases(
    heads: tuple[int, int], head_dim: int, dtype: torch.dtype, device: torch.device, tiny: bool
) -> Iterator[tuple[str, Callable[[], Attention]]]:
    lens = [20, 300, 33] if tiny else LENS
    chunk_lens, chunks = ([40, 20], [5, 1]) if tiny else ([900, 3000, 257, 64, 2048], [900, 300, 1, 64, 2])
    for name, case_lens, case_counts in (("decode", lens, [1] * len(lens)), ("mixed", chunk_lens, chunks)):
        for window in (0, 100):
            shape_name = f"{name} {heads[0]}/{heads[1]} x {head_dim}, window {window}, lens {case_lens}"
            shape = AttentionShape(case_lens, case_counts, heads, head_dim)
            yield shape_name, partial(make_attention, shape, dtype, device, AttentionRules(window))


def _attention(
    kernels: KernelSet, heads: tuple[int, int], head_dim: int, dtype: torch.dtype, device: torch.device, tiny: bool
) -> Iterator[Unit]:
    for shape, make in _plain_cases(heads, head_dim, dtype, device, tiny):
        yield unit(_attention_alone, shape, kernels, make)
    if device.type == "cuda":
        yield unit(_graph, kernels, heads, head_dim, dtype, device, LENS)


def _attention_alone(shape: str, kernels: KernelSet, make: Callable[[], Attention]) -> Row:
    case = make()
    out = kernels.paged_attention(*case.arguments())
    row = _row("paged_attention", shape, case.q_THD.dtype, out, case.expected()[0])
    starts = case.query_starts.tolist()
    alone = [kernels.paged_attention(*case.alone(seq).arguments()) for seq in range(len(starts) - 1)]
    same = all(torch.equal(one, out[starts[seq] : starts[seq + 1]]) for seq, one in enumerate(alone))
    is_promised = kernels.name == "triton"  # the reference's sums are in the library's order
    return {**row, "batch_invariant": same, "ok": row["ok"] and (same or not is_promised)}


def _rule_cases(
    heads: tuple[int, int], head_dim: int, dtype: torch.dtype, device: torch.device, tiny: bool
) -> Iterator[tuple[str, Callable[[], Attention]]]:
    """What scores may have besides, other caches, and prefixes that are read once."""
    lens, counts = ([300, 20], [1, 5]) if tiny else ([5000, 900, 257, 64], [1, 300, 1, 64])
    shape = AttentionShape(lens, counts, heads, head_dim)
    for name, rules in RULES.items():
        for window in (0,) if tiny else (0, 100):
            shape_name = f"{name}, {heads[0]}/{heads[1]} x {head_dim}, window {window}"
            yield shape_name, partial(make_attention, shape, dtype, device, AttentionRules(window, **rules))
    shared, lens = (64, [70, 80]) if tiny else (4096, [4096 + 100 * i for i in range(1, 20)])
    shape = AttentionShape(lens, [1] * len(lens), heads, head_dim)
    for name, rules in ({"plain": {}} if tiny else {"plain": {}, **RULES}).items():
        shape_name = f"{shared} shared by {len(lens)}, {name}, {heads[0]}/{heads[1]} x {head_dim}"
        yield shape_name, partial(make_attention, shape, dtype, device, AttentionRules(shared=shared, **rules))


def _rules(
    kernels: KernelSet, heads: tuple[int, int], head_dim: int, dtype: torch.dtype, device: torch.device, tiny: bool
) -> Iterator[Unit]:
    for shape, make in _rule_cases(heads, head_dim, dtype, device, tiny):
        yield unit(_rule, shape, kernels, make)


def _rule(shape: str, kernels: KernelSet, make: Callable[[], Attention]) -> Iterator[Row]:
    case = make()
    out, (expected, logarithms) = kernels.paged_attention(*case.arguments()), case.expected()
    yield _row("paged_attention", shape, case.q_THD.dtype, out, expected)
    if case.lse_out_TH is not None:
        yield _row("paged_attention", f"log of {shape}", case.q_THD.dtype, case.lse_out_TH, logarithms)


def _float8_writes(kernels: KernelSet, heads: tuple[int, int], head_dim: int, device: torch.device, num: int) -> Row:
    """Its own roundings against torch's: a key may differ by one where a product is rounded otherwise before."""
    num_heads, num_kv_heads = heads
    qkv = torch.randn((num, (num_heads + 2 * num_kv_heads) * head_dim), device=device).bfloat16() * 4
    angle = torch.rand((4096, head_dim // 2), device=device) * 6
    cos_sin = torch.cat((angle.cos(), angle.sin()), -1)
    positions, slots = torch.randint(4096, (num,), device=device), torch.randperm(num + 32, device=device)[:num]
    scales = [torch.rand(num_kv_heads, device=device) + 0.01 for _ in range(2)]  # some values are too large then
    shape = (num // 16 + 3, num_kv_heads, 16, head_dim)

    def written(function: QkvRotary) -> Tensor:
        keys, values = (torch.zeros(shape, device=device, dtype=torch.float8_e4m3fn) for _ in range(2))
        spec = QkvSpec(cos_sin, k_scale_G=scales[0], v_scale_G=scales[1])
        function(qkv.clone(), (keys, values), positions, slots, spec)
        return torch.cat([cache.float().double().flatten() for cache in (keys, values)])

    pair = written(kernels.qkv_rotary), written(qkv_reference.qkv_rotary)
    shape_name = f"{num} x {num_heads}/{num_kv_heads} x {head_dim}, fp8 cache"
    row = _row("qkv_rotary", shape_name, torch.bfloat16, *pair)
    return {**row, "ok": row["error"] < 4e-2}  # as if a third of the keys were one step (an eighth at most) away


def _graph(
    kernels: KernelSet,
    heads: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    lens: list[int],
) -> Row:
    """Captured with sequences of one token each, replayed with their real lengths."""
    case = make_attention(AttentionShape(lens, [1] * len(lens), heads, head_dim), dtype, device)
    eager = kernels.paged_attention(*case.arguments())
    real = case.seq_lens_S.clone()
    case.seq_lens_S.fill_(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = kernels.paged_attention(*case.arguments())
    case.seq_lens_S.copy_(real)
    graph.replay()
    row = _row("paged_attention", f"graph {heads[0]}/{heads[1]} x {head_dim}", dtype, out, eager.double())
    return {**row, "ok": torch.equal(out, eager)}


def _qkv_rotary(
    kernels: KernelSet, heads: tuple[int, int], head_dim: int, dtype: torch.dtype, device: torch.device, num: int
) -> Row:
    num_heads, num_kv_heads = heads
    qkv = torch.randn((num, (num_heads + 2 * num_kv_heads) * head_dim), device=device, dtype=dtype)
    angle = torch.rand((4096, head_dim // 2), device=device) * 6
    cos_sin = torch.cat((angle.cos(), angle.sin()), -1)
    norms = [torch.rand(head_dim, device=device) for _ in range(2)]
    positions = torch.randint(4096, (num,), device=device)
    slots = torch.randperm(num + 32, device=device)[:num]
    slots[0] = -1
    shape = (num // 16 + 3, num_kv_heads, 16, head_dim)

    def written(function: QkvRotary, wide: torch.dtype) -> Tensor:
        k_cache, v_cache = (torch.zeros(shape, device=device, dtype=wide) for _ in range(2))
        q = function(
            qkv.to(wide, copy=True), (k_cache, v_cache), positions, slots, QkvSpec(cos_sin, norms[0], norms[1], 1e-5)
        )
        return torch.cat([part.double().flatten() for part in (q, k_cache, v_cache)])

    pair = written(kernels.qkv_rotary, dtype), written(qkv_reference.qkv_rotary, torch.float32)
    return _row("qkv_rotary", f"{num} x {num_heads}/{num_kv_heads} x {head_dim}", dtype, *pair)


def _norm(kernels: KernelSet, num: int, dim: int, dtype: torch.dtype, device: torch.device) -> Row:
    x, residual = torch.randn((num, dim), device=device, dtype=dtype), torch.randn((num, dim), device=device)
    weight = torch.rand(dim, device=device)
    expected = norm_reference.add_rms_norm(x.float(), residual.clone(), weight, 1e-5).double()
    one = kernels.add_rms_norm(x[:1], residual[:1].clone(), weight, 1e-5)
    out = kernels.add_rms_norm(x, residual, weight, 1e-5)
    row = _row("add_rms_norm", f"{num} x {dim}", dtype, out, expected)
    same = torch.equal(one, out[:1])
    return {**row, "batch_invariant": same, "ok": row["ok"] and same}


def _gate(kernels: KernelSet, num: int, dim: int, dtype: torch.dtype, device: torch.device) -> Row:
    x = torch.randn((num, 2 * dim), device=device, dtype=dtype) * 4
    expected = gate_reference.gated_activation(x.float()).double()
    return _row("gated_activation", f"{num} x {dim}", dtype, kernels.gated_activation(x), expected)


def _unrounded(
    kernels: KernelSet, num: int, num_in: int, num_out: int, dtype: torch.dtype, device: torch.device
) -> Row:
    """Sums as logits are made of them: in fp32, on a card that has them."""
    x, weight = (torch.randn((rows, num_in), device=device, dtype=dtype) for rows in (num, num_out))
    out = kernels.linear(weight, None, torch.float32)(x)
    row = _row("linear, fp32 sums", f"{num} x {num_in} x {num_out}", dtype, out, x.double() @ weight.double().T)
    return {**row, "ok": row["error"] < (1e-5 if device.type == "cuda" else BOUNDS[dtype])}


def _one_row(kernels: KernelSet, num_out: int, num_in: int, dtype: torch.dtype, device: torch.device) -> Iterator[Row]:
    x, weight = (torch.randn((rows, num_in), device=device, dtype=dtype) for rows in (1, num_out))
    bias = torch.randn(num_out, device=device, dtype=dtype)
    expected = x.double() @ weight.double().T + bias.double()
    for out_dtype in (dtype, torch.float32):
        out = kernels.linear(weight, bias, out_dtype)(x)
        yield _row("linear of a row", f"{num_in} x {num_out}, {out_dtype}", dtype, out, expected)


def _linear(kernels: KernelSet, num: int, num_in: int, num_out: int, dtype: torch.dtype, device: torch.device) -> Row:
    x, weight = (torch.randn((rows, num_in), device=device, dtype=dtype) for rows in (num, num_out))
    linear = kernels.linear(weight)
    out = linear(x)
    row = _row("linear, deterministic", f"{num} x {num_in} x {num_out}", dtype, out, x.double() @ weight.double().T)
    order = torch.randperm(num, device=device)
    picks = [order[:few] for few in (1, 2, 17, 64, 65)]
    same = all(torch.equal(linear(x[pick]), out[pick]) for pick in picks)
    return {**row, "batch_invariant": same, "ok": row["ok"] and same}


def _model(device: torch.device, tiny: bool) -> Row:
    """A row of two layers with deterministic kernels: after a whole prompt, in chunks with another, resumed."""
    arch = TINY if tiny else msgspec.structs.replace(LLAMA_8B, layers=LLAMA_8B.layers[:2])
    length = 35 if tiny else 1000
    width = length // 16 + 1
    model = RandomModel(arch, triton_kernels(deterministic=True), 2 * width, torch.bfloat16, device)
    tokens = torch.randint(arch.vocab_size, (length + 1,)).tolist()

    def step(*pieces: tuple[int, int, int]) -> Tensor:
        blocks = [tuple(range(seq * width, (seq + 1) * width)) for seq in range(2)]
        sequences = tuple(
            ScheduledSequence(seq, start, tuple(tokens[start:stop]), (blocks[seq],), True)
            for seq, start, stop in pieces
        )
        scheduled = SchedulerOutput(0, sequences)
        batch = ForwardBatch.from_scheduled(scheduled, BlockTables.of(scheduled, 16), device)
        return model.decoder.forward(batch, model.kv)[:1]

    expected = step((0, 0, length)), step((0, length, length + 1))
    cut = length * 2 // 3
    step((0, 0, cut), (1, 0, 5))
    same = torch.equal(step((0, cut, length), (1, 5, 6)), expected[0])
    same &= torch.equal(step((0, length - 3, length + 1), (1, 6, 7)), expected[1])
    shape = f"{arch.num_layers} layers of {arch.model_dim}, {length} tokens"
    return {"name": "model, deterministic", "shape": shape, "dtype": "bfloat16", "batch_invariant": same, "ok": same}


def _row(name: str, shape: str, dtype: torch.dtype, out: Tensor, expected: Tensor) -> Row:
    error = ((out.double() - expected).norm() / expected.norm()).item()
    ok = error < BOUNDS[dtype]  # NaN is not
    return {"name": name, "shape": shape, "dtype": str(dtype).removeprefix("torch."), "error": error, "ok": ok}
