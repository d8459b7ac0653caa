"""Correctness of sampling kernels, from logits to tokens, against the references on the same device."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kernels.embedding import reference as embeddings
from kernels.kernel_set import KernelSet
from kernels.logit_mask import reference as masks
from kernels.logprobs import reference as logprobs
from kernels.penalties import reference as penalties
from kernels.sampling import reference as sampling

__all__ = ["check_sampling"]

Row = dict[str, Any]


def check_sampling(kernels: KernelSet, device: torch.device, vocab_size: int) -> Iterator[Row]:
    logits = torch.randn((64, vocab_size), device=device)
    yield _choose(kernels, logits)
    yield from _masks(kernels, logits)
    yield _logprobs(kernels, logits)
    yield from _filters(kernels, device, vocab_size)
    weight, tokens = torch.randn((1000, 576), device=device).bfloat16(), torch.randint(1000, (300,), device=device)
    error = _differ(kernels.embedding(weight, tokens), embeddings.embedding(weight, tokens))
    yield _row("embedding", weight, error, error == 0)


def _choose(kernels: KernelSet, logits: Tensor) -> Row:
    """Against the reference on a CPU, whose logarithms may differ by a rounding: tokens may in near ties."""
    num_rows = logits.shape[0]
    greedy = torch.arange(num_rows) % 4 == 0
    seeds, positions = torch.randint(-(2**63), 2**63 - 1, (num_rows,)), torch.arange(num_rows)
    ours = kernels.choose(logits, *(part.to(logits.device) for part in (greedy, seeds, positions))).cpu()
    error = int((ours != sampling.choose(logits.cpu(), greedy, seeds, positions)).sum())
    return _row("choose", logits, error, error <= 1)


def _masks(kernels: KernelSet, logits: Tensor) -> Iterator[Row]:
    num_rows, vocab_size = logits.shape
    device = logits.device
    bits = torch.randint(-(2**31), 2**31, (num_rows, -(-vocab_size // 32)), device=device).to(torch.int32)
    picks = torch.randperm(logits.numel(), device=device)[: logits.numel() // 100]
    entries = picks // vocab_size, picks % vocab_size
    counts = torch.randint(3, picks.shape, device=device).float()
    limited = torch.arange(num_rows, device=device) % 2 == 0
    presence, frequency, repetition = torch.rand((3, num_rows), device=device) + 0.5
    calls: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "allow_bits": (masks.allow_bits, (bits,)),
        "allow_only": (masks.allow_only, (limited, *entries)),
        "forbid": (masks.forbid, entries),
        "add_bias": (masks.add_bias, (*entries, counts)),
        "penalties": (
            penalties.penalties,
            (penalties.PenaltyEntries(*entries, counts), presence, frequency, repetition),
        ),
    }
    for name, (reference, arguments) in calls.items():
        error = _differ(getattr(kernels, name)(logits, *arguments), reference(logits, *arguments))
        yield _row(name, logits, error, error < 1e-5)


def _logprobs(kernels: KernelSet, logits: Tensor) -> Row:
    chosen = logits.argmin(-1)
    ours, theirs = (function(logits, chosen, 20) for function in (kernels.logprobs, logprobs.logprobs))
    error = max(_differ(ours[0], theirs[0]), _differ(ours[2], theirs[2]))
    alone = kernels.logprobs(logits[:1], chosen[:1], 20)
    same = all(torch.equal(one, all_[:1]) for one, all_ in zip(alone, ours, strict=True))
    ok = same and error < 1e-4 and torch.equal(ours[1], theirs[1])
    return {**_row("logprobs", logits, error, ok), "batch_invariant": same}


def _filters(kernels: KernelSet, device: torch.device, vocab_size: int) -> Iterator[Row]:
    """What the references keep; with top-p, but for tokens at the border that are as likely as sums are rounded."""
    logits = torch.randn((8, vocab_size), device=device) * torch.arange(1, 9, device=device)[:, None]
    logits[7] = logits[7].round()
    probs = logits.double().softmax(-1)
    share = torch.tensor([0.1, 0.5, 0.9, 0.99, 0.9999, 1.0, 0.7, 0.9], device=device)
    top_k = torch.tensor([1, 50, 1000, vocab_size, 0, 2, 77, 500], device=device)
    for name, bounds, bound in (("keep_top_k", top_k, 0.0), ("keep_top_p", share, 4e-6), ("keep_min_p", 1 - share, 0)):
        ours, theirs = (function(logits, bounds) for function in (getattr(kernels, name), getattr(sampling, name)))
        mass = probs.masked_fill(ours == theirs, 0.0).sum(-1).max().item()
        alone = torch.cat([getattr(kernels, name)(logits[r : r + 1], bounds[r : r + 1]) for r in range(8)])
        same = torch.equal(ours, alone)
        yield {**_row(name, logits, mass, same and mass <= bound), "batch_invariant": same}


def _differ(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; infinite ones are equal."""
    return (ours - theirs).masked_fill(ours == theirs, 0.0).abs().max().item()


def _row(name: str, on: Tensor, error: float, ok: bool) -> Row:
    shape, dtype = " x ".join(map(str, on.shape)), str(on.dtype).removeprefix("torch.")
    return {"name": name, "shape": shape, "dtype": dtype, "error": error, "ok": ok}
