"""Kernel benchmark: time, bandwidth and FLOP/s of each operation. Bytes and operations are the least that it needs.

A row has under `peers` what else was timed on the same inputs, or why it was not.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from kernels.experts.reference import Expert
from kernels.kernel_set import KernelSet, triton_kernels
from kernels.penalties.reference import PenaltyEntries
from kernels.qkv_rotary.spec import QkvSpec
from kernels.sampling import reference as sampling
from scripts.bench.gpu.cases import PLAIN, Attention, AttentionRules, AttentionShape, make_attention, random_ints
from scripts.bench.gpu.compile_ahead import compile_ahead
from scripts.bench.gpu.peers import ATTENTION_PEERS, Peer, flashinfer_top_k
from scripts.bench.gpu.timing import Work, compare, copies
from scripts.bench.gpu.units import Row, Unit, unit

__all__ = [
    "Case",
    "attention_case",
    "baseline_cases",
    "kernel_cases",
    "linear_cases",
    "quantized_cases",
    "quick_cases",
    "sampling_cases",
    "second_cases",
    "time_kernels",
]

BLOCKS_OF_64 = AttentionRules(block_size=64)
HEADS = [((32, 8), 128), ((9, 3), 64)]
LINEARS = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]  # Llama-3.1-8B's
COMPILED_AT_ONCE = 48  # cases, so that a part whose time ends has timed some
MOST_KV_BYTES = 16 << 30
MOST_PEERS_CONTEXT = 8192  # most of them have keys and values of their own
# what FlexAttention is timed on: it compiles for each shape, and twice, for longer than all of ours together
FLEX_SHAPES = "32 x 2048, 32/8 x 128", "8 x 8192, 32/8 x 128", "1 x 8192, 32/8 x 128"

OnLogits = Callable[..., object]


@dataclass(frozen=True)
class Case:
    """`make` gives work on buffers of its own."""

    name: str
    shape: str
    make: Callable[[], Work]
    num_bytes: int
    num_flops: int = 0
    dtype: str = "bfloat16"
    op: str = ""  # the kernel set's, where a baseline may have another
    peers: dict[str, Callable[[int], list[Work]]] = field(default_factory=dict)  # of a number of buffers


def time_kernels(
    cases: Iterable[Case],
    device: torch.device,
    ceilings: dict[str, float],
    baseline: dict[tuple[str, str], Case] | None = None,
) -> Iterator[Unit]:
    """A unit a case. A baseline's cases, by name and shape, are timed beside ours."""
    waiting = list(cases)
    while some := waiting[:COMPILED_AT_ONCE]:
        yield unit(_compiled, some, device)
        for case in some:
            other = (baseline or {}).get((case.name, case.shape))
            yield Unit(case.name, case.shape, partial(_timed, case, other, device, ceilings))
        del waiting[:COMPILED_AT_ONCE]


def _timed(case: Case, other: Case | None, device: torch.device, ceilings: dict[str, float]) -> Row:
    versions: dict[str, Callable[[int], list[Work]]] = {"": partial(_several, case.make), **case.peers}
    if other is not None:
        versions["baseline"] = partial(_several, other.make)
    num_buffers = copies(case.num_bytes, device)
    peers = compare({name: partial(make, num_buffers) for name, make in versions.items()}, device)
    timing = peers.pop("")
    row = {"name": case.name, "shape": case.shape, "dtype": case.dtype}
    if isinstance(timing, str):
        return {**row, "ok": False, "failed": timing}
    return {**row, **timing, **_rates(case, timing, ceilings), "peers": peers}


def _compiled(cases: list[Case], device: torch.device) -> Row:
    """What the next cases launch, on all cores."""
    began_s = time.perf_counter()
    num_variants = compile_ahead(partial(_run_each, cases), device)
    took_s = round(time.perf_counter() - began_s, 2)
    return {"name": "compile", "shape": f"{len(cases)} cases", "variants": num_variants, "s": took_s}


def _run_each(cases: list[Case]) -> None:
    for case in cases:
        try:
            case.make()()
        except Exception:  # it is told why where it is timed
            continue


def _several(make: Callable[[], Work], num_buffers: int) -> list[Work]:
    return [make() for _ in range(num_buffers)]


def _rates(case: Case, timing: dict[str, float], ceilings: dict[str, float]) -> dict[str, float]:
    gb_s = case.num_bytes / timing["median_us"] / 1e3
    tflop_s = case.num_flops / timing["median_us"] / 1e6
    share = max(gb_s / ceilings["copy_gb_s"], tflop_s / ceilings["bf16_tflop_s"])
    return {
        "bytes": case.num_bytes,
        "flops": case.num_flops,
        "gb_s": round(gb_s, 2),
        "tflop_s": round(tflop_s, 3),
        "share": round(share, 3),
    }


def baseline_cases(
    baseline: KernelSet, kernels: KernelSet, device: torch.device, tiny: bool
) -> dict[tuple[str, str], Case]:
    """Those of a baseline's cases whose operation is not ours."""
    cases = kernel_cases(baseline, device, tiny)
    return {
        (case.name, case.shape): case
        for case in cases
        if case.op and getattr(baseline, case.op) is not getattr(kernels, case.op)
    }


def quick_cases(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    """What tells most in little time, of Llama-3.1-8B's shapes; without peers that compile for minutes."""
    for case in _quick_cases(kernels, device, tiny):
        yield replace(case, peers={name: peer for name, peer in case.peers.items() if name != "FlexAttention"})


def _quick_cases(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    if tiny:
        yield from itertools.islice(kernel_cases(kernels, device, tiny), 6)
        return
    heads = HEADS[0]
    for batch, context in ((1, 1024), (32, 1024), (256, 1024), (1, 8192), (32, 8192), (128, 8192)):
        shape = AttentionShape.decode(batch, context, *heads)
        yield attention_case("decode", kernels, shape, device)
        if context == 1024 or batch == 32:
            yield attention_case("decode, blocks of 64,", kernels, shape, device, BLOCKS_OF_64)
            yield attention_case("decode, fp8 cache,", kernels, shape, device, AttentionRules(fp8=True))
    lens = [16_384, *[512] * 255]
    yield attention_case("decode, one is long,", kernels, AttentionShape(lens, [1] * len(lens), *heads), device)
    for length in (1024, 8192):
        yield attention_case("prefill", kernels, AttentionShape.prefill(length, *heads), device)
        yield attention_case(
            "prefill, blocks of 64,", kernels, AttentionShape.prefill(length, *heads), device, BLOCKS_OF_64
        )
    yield attention_case("200 behind 64k", kernels, AttentionShape([65_536], [200], *heads), device)
    mixed = AttentionShape([4096] * 32 + [2048] * 2, [1] * 32 + [2048] * 2, *heads)
    yield attention_case("mixed", kernels, mixed, device)
    for tokens in (1, 32, 256):
        yield from _layers(kernels, tokens, device, tiny)
    for tokens in (1, 32, 256):
        yield from (case for case in linear_cases(kernels, tokens, device, tiny) if case.name == "linear")
    for rows in (1, 128, 256):
        yield from sampling_cases(kernels, rows, 128_256, device)


def second_cases(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    """Experts, weights of 4 bits, the deterministic product, and prefixes that are shared."""
    for tokens in [2] if tiny else [1, 32, 256, 8192]:
        yield _experts(kernels, tokens, device, tiny)
    yield from quantized_cases(kernels, device, tiny)
    for tokens in [2] if tiny else [4096]:
        yield from _quantized_linears(kernels, tokens, device)
    for tokens in [2] if tiny else [1, 32, 256]:
        yield from (case for case in linear_cases(kernels, tokens, device, tiny) if case.name != "linear")
    for prefix in [64] if tiny else [1024, 8192]:
        yield from _cascade(kernels, 2 if tiny else 64, prefix, device, tiny)


def quantized_cases(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    """Of every number of rows that has launch parameters of its own."""
    for tokens in [1, 2] if tiny else [1, 16, 32, 64, 128, 256]:
        yield from _quantized_linears(kernels, tokens, device)


def kernel_cases(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    batches, contexts = ([2], [40]) if tiny else ([1, 8, 32, 128], [512, 2048, 8192, 32768])
    for heads, head_dim in HEADS[1:] if tiny else HEADS:
        for batch in batches:
            for context in contexts:
                if 4 * batch * context * heads[1] * head_dim <= MOST_KV_BYTES:
                    yield attention_case(
                        "decode", kernels, AttentionShape.decode(batch, context, heads, head_dim), device
                    )
        for length in [40] if tiny else [1024, 8192]:
            yield attention_case("prefill", kernels, AttentionShape.prefill(length, heads, head_dim), device)
        lens, counts = ([40, 20], [30, 1]) if tiny else ([4096] * 32 + [2048] * 2, [1] * 32 + [2048] * 2)
        yield attention_case("mixed", kernels, AttentionShape(lens, counts, heads, head_dim), device)
        # tables are as wide as the longest needs: most programs of the others have nothing to do
        lens = [40, *[20] * 2] if tiny else [16_384, *[512] * 255]
        shape = AttentionShape(lens, [1] * len(lens), heads, head_dim)
        yield attention_case("decode, one is long,", kernels, shape, device)
    yield from _variants(kernels, device, tiny)
    for rows in [2] if tiny else [8, 64]:
        for prefix in [64] if tiny else [256, 1024, 8192]:
            yield from _cascade(kernels, rows, prefix, device, tiny)
    for tokens in [2] if tiny else [1, 32, 256, 8192]:
        yield from _layers(kernels, tokens, device, tiny)
    for tokens in [2] if tiny else [1, 32, 256, 4096]:
        yield from linear_cases(kernels, tokens, device, tiny)
        yield _experts(kernels, tokens, device, tiny)
        yield from _quantized_linears(kernels, tokens, device)
    for rows in [2] if tiny else [1, 32, 128]:
        yield from sampling_cases(kernels, rows, 1000 if tiny else 128_256, device)


def attention_case(
    name: str, kernels: KernelSet, shape: AttentionShape, device: torch.device, rules: AttentionRules = PLAIN
) -> Case:
    def inputs() -> Attention:
        return make_attention(shape, torch.bfloat16, device, rules)

    def make() -> Work:
        return partial(kernels.paged_attention, *inputs().arguments())

    def beside(peer: Peer, num_buffers: int) -> list[Work]:
        return list(peer([inputs() for _ in range(num_buffers)]))

    lens, heads, head_dim = shape.lens, shape.heads, shape.head_dim
    alike = len(set(lens)) == 1
    few = f"{len(lens)} x {lens[0]}" if alike else f"{len(lens)} of {min(lens)}-{max(lens)}"
    shape_name = f"{few}, {heads[0]}/{heads[1]} x {head_dim}"
    named = ATTENTION_PEERS if alike and rules == PLAIN and lens[0] <= MOST_PEERS_CONTEXT else {}  # they know no rules
    if device.type == "cuda" and shape_name not in FLEX_SHAPES:
        named = {name: peer for name, peer in named.items() if name != "FlexAttention"}
    peers: dict[str, Callable[[int], list[Work]]] = {name: partial(beside, peer) for name, peer in named.items()}
    work = _work(shape, rules.shared * (len(lens) - 1), 1 if rules.fp8 else 2)
    return Case(f"{name} attention", shape_name, make, *work, op="paged_attention", peers=peers)


def _variants(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    """Beside plain decode and prefill of the same shapes."""
    llama, gemma, gpt_oss = ((32, 8), 128), ((16, 8), 256), ((64, 8), 64)
    kinds: dict[str, tuple[tuple[tuple[int, int], int], AttentionRules]] = {
        "plain, heads of 256": (gemma, PLAIN),
        "soft-cap": (gemma, AttentionRules(soft_cap=50.0)),
        "plain, 8 queries a key": (gpt_oss, PLAIN),
        "sinks": (gpt_oss, AttentionRules(sinks=True)),
        "logarithms": (llama, AttentionRules(logarithms=True)),
        "blocks of 64": (llama, BLOCKS_OF_64),
        "fp8 cache": (llama, AttentionRules(fp8=True)),
        "fp8 cache, blocks of 64": (llama, AttentionRules(fp8=True, block_size=64)),
    }
    decodes, prefills = ([(2, 40)], [20]) if tiny else ([(1, 1024), (32, 2048), (128, 2048), (32, 8192)], [1024, 8192])
    for name, ((heads, head_dim), rules) in kinds.items():
        if tiny:
            heads, head_dim = (4, 2), 64
        for batch, context in decodes:
            shape = AttentionShape.decode(batch, context, heads, head_dim)
            yield attention_case(f"decode, {name},", kernels, shape, device, rules)
        for length in prefills:
            yield attention_case(
                f"prefill, {name},", kernels, AttentionShape.prefill(length, heads, head_dim), device, rules
            )


def _cascade(kernels: KernelSet, rows: int, prefix: int, device: torch.device, tiny: bool) -> Iterator[Case]:
    """Rows that share a prefix and have 256 keys of their own; bytes count the prefix once, grouped or not."""
    heads, head_dim, own = ((4, 2), 64, 16) if tiny else ((32, 8), 128, 256)
    shape = AttentionShape.decode(rows, prefix + own, heads, head_dim)
    for name, grouped in (("grouped", True), ("each for itself", False)):
        rules = AttentionRules(shared=prefix, grouped=grouped)
        yield attention_case(f"decode, {prefix} shared, {name},", kernels, shape, device, rules)


def _work(shape: AttentionShape, read_again: int, kv_item_bytes: int) -> tuple[int, int]:
    """(bytes, operations): keys and values once, queries and outputs once; only what is seen is multiplied.

    read_again   keys of the prefix that all but one sequence share with another
    """
    lens, counts, head_dim = shape.lens, shape.counts, shape.head_dim
    num_heads, num_kv_heads = shape.heads
    kv_bytes = kv_item_bytes * num_kv_heads * (sum(lens) - read_again)
    num_bytes = 2 * head_dim * (kv_bytes + 2 * num_heads * sum(counts))
    seen = sum(count * length - count * (count - 1) // 2 for length, count in zip(lens, counts, strict=True))
    return num_bytes, 4 * num_heads * head_dim * seen


def _layers(kernels: KernelSet, tokens: int, device: torch.device, tiny: bool) -> Iterator[Case]:
    dim, ffn_dim, (num_heads, num_kv_heads), head_dim = (96, 100, (4, 2), 64) if tiny else (4096, 14336, (32, 8), 128)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    def norm() -> Work:
        x, residual, weight = random(tokens, dim), random(tokens, dim).float(), random(dim).float()
        return lambda: kernels.add_rms_norm(x, residual, weight, 1e-5)

    def gate() -> Work:
        x = random(tokens, 2 * ffn_dim)
        return lambda: kernels.gated_activation(x)

    def rotary() -> Work:
        qkv, cos_sin = random(tokens, (num_heads + 2 * num_kv_heads) * head_dim), random(4096, head_dim).float()
        positions, slots = torch.randint(4096, (tokens,), device=device), torch.randperm(tokens, device=device)
        keys, values = (random(-(-tokens // 16), num_kv_heads, 16, head_dim) for _ in range(2))
        return lambda: kernels.qkv_rotary(qkv, (keys, values), positions, slots, QkvSpec(cos_sin))

    def embedding() -> Work:
        weight, ids = random(8192, dim), torch.randint(8192, (tokens,), device=device)
        return lambda: kernels.embedding(weight, ids)

    yield Case("embedding", f"{tokens} x {dim}", embedding, tokens * dim * 4, op="embedding")
    yield Case("residual + RMS norm", f"{tokens} x {dim}", norm, tokens * dim * 12, op="add_rms_norm")
    yield Case("SiLU * up", f"{tokens} x {ffn_dim}", gate, tokens * ffn_dim * 6, op="gated_activation")
    heads = num_heads + 2 * num_kv_heads
    yield Case(
        "rotary + KV write",
        f"{tokens} x {num_heads}/{num_kv_heads} x {head_dim}",
        rotary,
        tokens * heads * head_dim * 4,
        op="qkv_rotary",
    )


def linear_cases(kernels: KernelSet, tokens: int, device: torch.device, tiny: bool) -> Iterator[Case]:
    sets = {"linear": kernels}
    if kernels.name == "triton":
        sets["linear, deterministic"] = triton_kernels(deterministic=True)
    for num_out, num_in in [(96, 64)] if tiny else LINEARS:
        num_bytes = 2 * (num_out * num_in + tokens * (num_in + num_out))
        for name, chosen in sets.items():
            make = partial(_linear, chosen, tokens, num_in, num_out, device)
            num_flops, op = 2 * tokens * num_in * num_out, "linear" if chosen is kernels else ""
            yield Case(name, f"{tokens} x {num_in} x {num_out}", make, num_bytes, num_flops, op=op)


def _quantized_linears(kernels: KernelSet, tokens: int, device: torch.device) -> Iterator[Case]:
    """In groups of 128 with offsets, as AWQ has them. Its peer is the same matrix in bfloat16, the library's."""
    if kernels.quantized_linear is None:
        return
    for num_out, num_in in LINEARS[:-1] if device.type == "cuda" else [(96, 256)]:
        num_flops, num_numbers = 2 * tokens * num_in * num_out, num_out * num_in
        yield Case(
            "linear, 4 bits",
            f"{tokens} x {num_in} x {num_out}",
            partial(_quantized_linear, kernels, tokens, num_in, num_out, device),
            num_numbers // 2 + num_numbers // 128 * 8 + 2 * tokens * (num_in + num_out),
            num_flops,
            op="quantized_linear",
            peers={"bfloat16": partial(_several, partial(_linear, kernels, tokens, num_in, num_out, device))},
        )


def _quantized_linear(kernels: KernelSet, tokens: int, num_in: int, num_out: int, device: torch.device) -> Work:
    assert kernels.quantized_linear is not None
    x = torch.randn((tokens, num_in), device=device, dtype=torch.bfloat16)
    linear = kernels.quantized_linear(random_ints(num_out, num_in, 128, device))
    return lambda: linear(x)


def _experts(kernels: KernelSet, tokens: int, device: torch.device, tiny: bool) -> Case:
    """One layer's of Qwen3-30B-A3B. Bytes are those of the experts that are likely to be taken by somebody."""
    num_experts, top_k, dim, ffn_dim = (4, 2, 32, 16) if tiny else (128, 8, 2048, 768)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    def make() -> Work:
        experts = kernels.experts([Expert(random(2 * ffn_dim, dim), random(dim, ffn_dim)) for _ in range(num_experts)])
        x, logits = random(tokens, dim), random(tokens, num_experts).float()
        return lambda: experts(x, *kernels.route(logits, top_k, True))

    num_taken = num_experts * (1 - (1 - top_k / num_experts) ** tokens)
    num_bytes = 2 * (round(num_taken * 3 * ffn_dim * dim) + 2 * tokens * dim)
    shape = f"{tokens} rows, {top_k} of {num_experts} x {dim} x {ffn_dim}"
    return Case("experts", shape, make, num_bytes, 6 * tokens * top_k * ffn_dim * dim, op="experts")


def _linear(kernels: KernelSet, tokens: int, num_in: int, num_out: int, device: torch.device) -> Work:
    x, weight = (torch.randn((rows, num_in), device=device, dtype=torch.bfloat16) for rows in (tokens, num_out))
    linear = kernels.linear(weight)
    return lambda: linear(x)


def sampling_cases(kernels: KernelSet, rows: int, vocab_size: int, device: torch.device) -> Iterator[Case]:
    def on_logits(function: OnLogits, arguments: tuple[Any, ...]) -> Callable[[], Work]:
        def make() -> Work:
            logits = torch.randn((rows, vocab_size), device=device)
            return lambda: function(logits, *arguments)

        return make

    greedy, seeds = torch.zeros(rows, dtype=torch.bool, device=device), torch.arange(rows, device=device)
    bits = torch.full((rows, -(-vocab_size // 32)), -1, dtype=torch.int32, device=device)
    top_k, top_p = torch.full((rows,), 50, device=device), torch.full((rows,), 0.9, device=device)
    few = min(1000, vocab_size)
    each = torch.arange(rows * few, device=device)
    seen = each // few, each % few, torch.ones_like(each, dtype=torch.float32)
    noise = greedy, seeds, seeds
    # how often a logit is read or written, the operation, what it takes besides the logits, peers
    cases: dict[str, tuple[int, str, tuple[Any, ...], dict[str, OnLogits]]] = {
        "choose": (1, "choose", noise, {}),
        "allow bits": (2, "allow_bits", (bits,), {}),
        "top-k": (2, "keep_top_k", (top_k,), {"torch's sort": sampling.keep_top_k, "FlashInfer": flashinfer_top_k}),
        "top-p": (2, "keep_top_p", (top_p,), {"torch's sort": sampling.keep_top_p}),
        "min-p": (2, "keep_min_p", (1 - top_p,), {}),
        "penalties, 1000 tokens a row": (2, "penalties", (PenaltyEntries(*seen), top_p, top_p, top_p), {}),
        "log probabilities, top 20": (1, "logprobs", (seeds, 20), {}),
    }
    for name, (times, op, arguments, peers) in cases.items():
        yield Case(
            name,
            f"{rows} x {vocab_size}",
            on_logits(getattr(kernels, op), arguments),
            times * rows * vocab_size * 4,
            dtype="float32",
            op=op,
            peers={peer: partial(_several, on_logits(function, arguments)) for peer, function in peers.items()},
        )
