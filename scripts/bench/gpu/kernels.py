"""How fast is it? Bytes and operations are counted by hand, the least that the work needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

from kernels.kernel_set import KernelSet, triton_kernels
from kernels.sampling import reference as sampling
from scripts.bench.gpu.cases import Attention, make_attention
from scripts.bench.gpu.timing import Work, copies, measure

__all__ = ["time_kernels"]

HEADS = [((32, 8), 128), ((9, 3), 64)]
LINEARS = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]  # Llama-3.1-8B's
MOST_KV_BYTES = 16 << 30


@dataclass(frozen=True)
class Case:
    """`make` gives work on buffers of its own."""

    name: str
    shape: str
    make: Callable[[], Work]
    num_bytes: int
    num_flops: int = 0
    dtype: str = "bfloat16"


def time_kernels(
    kernels: KernelSet, device: torch.device, ceilings: dict[str, float], tiny: bool
) -> Iterator[dict[str, Any]]:
    """One that fails, as for want of memory, says why in its row."""
    for case in tqdm(list(_cases(kernels, device, tiny)), desc="kernels", unit="case"):
        row = {"name": case.name, "shape": case.shape, "dtype": case.dtype}
        try:
            timing = measure([case.make() for _ in range(copies(case.num_bytes, device))], device)
        except RuntimeError as error:
            yield {**row, "ok": False, "failed": str(error).partition("\n")[0]}
            continue
        yield {**row, **timing, **_rates(case, timing, ceilings)}
        if device.type == "cuda":
            torch.cuda.empty_cache()


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


def _cases(kernels: KernelSet, device: torch.device, tiny: bool) -> Iterator[Case]:
    batches, contexts = ([2], [40]) if tiny else ([1, 8, 32, 128], [512, 2048, 8192, 32768])
    for heads, head_dim in HEADS[1:] if tiny else HEADS:
        for batch in batches:
            for context in contexts:
                if 4 * batch * context * heads[1] * head_dim <= MOST_KV_BYTES:
                    yield from _decode(kernels, batch, context, heads, head_dim, device)
        for length in [40] if tiny else [1024, 8192]:
            yield from _prefill(kernels, length, heads, head_dim, device)
        lens, counts = ([40, 20], [30, 1]) if tiny else ([4096] * 32 + [2048] * 2, [1] * 32 + [2048] * 2)
        yield _attention("mixed", kernels, lens, counts, heads, head_dim, device)
    for tokens in [2] if tiny else [1, 32, 256, 8192]:
        yield from _layers(kernels, tokens, device, tiny)
    for tokens in [2] if tiny else [1, 32, 256, 4096]:
        yield from _linears(kernels, tokens, device, tiny)
    for rows in [2] if tiny else [1, 32, 128]:
        yield from _sampling(kernels, rows, 1000 if tiny else 128_256, device)


def _attention(
    name: str,
    kernels: KernelSet,
    lens: list[int],
    counts: list[int],
    heads: tuple[int, int],
    head_dim: int,
    device: torch.device,
) -> Case:
    def make() -> Work:
        arguments = make_attention(lens, counts, heads, head_dim, torch.bfloat16, device).arguments()
        return lambda: kernels.paged_attention(*arguments)

    few = f"{len(lens)} x {lens[0]}" if len(set(lens)) == 1 else f"{len(lens)} of {min(lens)}-{max(lens)}"
    return Case(
        f"{name} attention", f"{few}, {heads[0]}/{heads[1]} x {head_dim}", make, *_work(lens, counts, heads, head_dim)
    )


def _work(lens: list[int], counts: list[int], heads: tuple[int, int], head_dim: int) -> tuple[int, int]:
    """(bytes, operations): keys and values once, queries and outputs once; only what is seen is multiplied."""
    num_heads, num_kv_heads = heads
    num_bytes = 4 * head_dim * (num_kv_heads * sum(lens) + num_heads * sum(counts))
    seen = sum(count * length - count * (count - 1) // 2 for length, count in zip(lens, counts, strict=True))
    return num_bytes, 4 * num_heads * head_dim * seen


def _decode(
    kernels: KernelSet, batch: int, context: int, heads: tuple[int, int], head_dim: int, device: torch.device
) -> Iterator[Case]:
    ours = _attention("decode", kernels, [context] * batch, [1] * batch, heads, head_dim, device)
    yield ours

    def make() -> Work:
        case = make_attention([context] * batch, [1] * batch, heads, head_dim, torch.bfloat16, device)
        q, k, v = _dense(case, batch, context)
        return lambda: scaled_dot_product_attention(q, k, v, enable_gqa=True)

    if context <= 8192:  # its keys and values are held twice
        yield Case("torch SDPA, no pages: decode", ours.shape, make, ours.num_bytes, ours.num_flops)


def _prefill(
    kernels: KernelSet, length: int, heads: tuple[int, int], head_dim: int, device: torch.device
) -> Iterator[Case]:
    ours = _attention("prefill", kernels, [length], [length], heads, head_dim, device)
    yield ours

    def make() -> Work:
        q, k, v = _dense(make_attention([length], [length], heads, head_dim, torch.bfloat16, device), 1, length)
        return lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    yield Case("torch SDPA, no pages: prefill", ours.shape, make, ours.num_bytes, ours.num_flops)


def _dense(case: Attention, batch: int, context: int) -> tuple[torch.Tensor, ...]:
    """[batch, heads, tokens, head size] each."""
    q = case.q_THD.view(batch, -1, *case.q_THD.shape[1:]).transpose(1, 2).contiguous()
    k, v = (
        cache[case.block_table_SW.long()].transpose(1, 2).flatten(2, 3)[:, :, :context].contiguous()
        for cache in (case.k_cache, case.v_cache)
    )
    return q, k, v


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
        caches = [random(-(-tokens // 16), num_kv_heads, 16, head_dim) for _ in range(2)]
        return lambda: kernels.qkv_rotary(qkv, None, None, 1e-5, cos_sin, positions, slots, *caches)

    def embedding() -> Work:
        weight, ids = random(8192, dim), torch.randint(8192, (tokens,), device=device)
        return lambda: kernels.embedding(weight, ids)

    yield Case("embedding", f"{tokens} x {dim}", embedding, tokens * dim * 4)
    yield Case("residual + RMS norm", f"{tokens} x {dim}", norm, tokens * dim * 12)
    yield Case("SiLU * up", f"{tokens} x {ffn_dim}", gate, tokens * ffn_dim * 6)
    heads = num_heads + 2 * num_kv_heads
    yield Case(
        "rotary + KV write",
        f"{tokens} x {num_heads}/{num_kv_heads} x {head_dim}",
        rotary,
        tokens * heads * head_dim * 4,
    )


def _linears(kernels: KernelSet, tokens: int, device: torch.device, tiny: bool) -> Iterator[Case]:
    sets = {"linear": kernels}
    if kernels.name == "triton":
        sets["linear, deterministic"] = triton_kernels(deterministic=True)
    for num_out, num_in in [(96, 64)] if tiny else LINEARS:
        num_bytes = 2 * (num_out * num_in + tokens * (num_in + num_out))
        for name, chosen in sets.items():
            make = partial(_linear, chosen, tokens, num_in, num_out, device)
            yield Case(name, f"{tokens} x {num_in} x {num_out}", make, num_bytes, 2 * tokens * num_in * num_out)


def _linear(kernels: KernelSet, tokens: int, num_in: int, num_out: int, device: torch.device) -> Work:
    x, weight = (torch.randn((rows, num_in), device=device, dtype=torch.bfloat16) for rows in (tokens, num_out))
    linear = kernels.linear(weight)
    return lambda: linear(x)


def _sampling(kernels: KernelSet, rows: int, vocab_size: int, device: torch.device) -> Iterator[Case]:
    def on_logits(work: Callable[[torch.Tensor], object]) -> Callable[[], Work]:
        def make() -> Work:
            logits = torch.randn((rows, vocab_size), device=device)
            return lambda: work(logits)

        return make

    greedy, seeds = torch.zeros(rows, dtype=torch.bool, device=device), torch.arange(rows, device=device)
    bits = torch.full((rows, -(-vocab_size // 32)), -1, dtype=torch.int32, device=device)
    top_k, top_p = torch.full((rows,), 50, device=device), torch.full((rows,), 0.9, device=device)
    few = min(1000, vocab_size)
    each = torch.arange(rows * few, device=device)
    seen = each // few, each % few, torch.ones_like(each, dtype=torch.float32)
    factors = (top_p, top_p, top_p)
    once = rows * vocab_size * 4
    cases: dict[str, tuple[Callable[[torch.Tensor], object], int]] = {
        "choose": (lambda logits: kernels.choose(logits, greedy, seeds, seeds), once),
        "allow bits": (lambda logits: kernels.allow_bits(logits, bits), 2 * once),
        "top-k": (lambda logits: kernels.keep_top_k(logits, top_k), 2 * once),
        "top-p": (lambda logits: kernels.keep_top_p(logits, top_p), 2 * once),
        "min-p": (lambda logits: kernels.keep_min_p(logits, 1 - top_p), 2 * once),
        "top-k, torch's sort": (lambda logits: sampling.keep_top_k(logits, top_k), 2 * once),
        "top-p, torch's sort": (lambda logits: sampling.keep_top_p(logits, top_p), 2 * once),
        "penalties, 1000 entries a row": (lambda logits: kernels.penalties(logits, *seen, *factors), 2 * once),
        "log probabilities, top 20": (lambda logits: kernels.logprobs(logits, top_k, 20), once),
    }
    for name, (work, num_bytes) in cases.items():
        yield Case(name, f"{rows} x {vocab_size}", on_logits(work), num_bytes, dtype="float32")
