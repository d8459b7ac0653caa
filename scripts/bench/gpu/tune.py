"""Searches the launch parameters of kernels; scripts/bench/gpu/tables.py puts what won into the tree.

A case of a table is tried on all timed cases that ask for it; parameters win that are at least WIN faster on average
than what is launched now, the written parameters or an older table's.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kernels.kernel_set import KernelSet
from kernels.launch import measured
from scripts.bench.gpu.cases import AttentionRules, AttentionShape
from scripts.bench.gpu.compile_ahead import compile_ahead, noted
from scripts.bench.gpu.kernels import (
    Case,
    attention_case,
    kernel_cases,
    linear_cases,
    quantized_cases,
    sampling_cases,
)
from scripts.bench.gpu.tables import add_config
from scripts.bench.gpu.timing import Work, copies, measure
from scripts.bench.gpu.units import Row, Unit, reason, unit

__all__ = ["tune"]

WIN = 0.02
# what the search looks at of scripts/bench/gpu/kernels.py, by how shapes begin: a table's case holds for every batch
SHAPES = (
    *("32 x 2048,", "8 x 8192,", "1 x 8192,", "34 of"),  # attention
    *("32 x 4096", "32 x 14336", "32 x 32/8", "32 x 128256", "4096 x", "8192 x", "32 rows", "4096 rows"),
)


@dataclass(frozen=True)
class Search:
    module: str
    prefix: str  # of the cases in its table
    grid: dict[str, tuple[int, ...]]
    timed: str = ""  # how the names of the cases begin that it is timed on
    at_call: bool = False  # parameters are looked up at each call: the same buffers serve all candidates

    def candidates(self) -> Iterator[dict[str, int]]:
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


WARPS = 1, 2, 4, 8, 16
# a case a number of rows; more splits where few rows leave most of the device idle
QUANTIZED_GRIDS: dict[str, dict[str, tuple[int, ...]]] = {
    "T=16 ": {"BLOCK_O": (64, 128), "SPLITS": (1, 2, 4, 8), "num_stages": (3, 5)},
    "T=32 ": {"BLOCK_O": (64, 128), "SPLITS": (1, 2, 4), "SUMMED": (0, 1), "num_stages": (5,)},
    "T=64 ": {"BLOCK_O": (64, 128), "SPLITS": (1, 2, 4), "SUMMED": (0, 1), "num_warps": (4,)},
    "T=128 ": {"BLOCK_T": (64, 128), "SPLITS": (1, 2, 4), "num_warps": (8,), "DENSE": (0,)},
    "T=256 ": {"BLOCK_T": (64, 128), "SPLITS": (1, 2), "num_warps": (8,), "DENSE": (0,)},
}
QUANTIZED_SEARCHES = [
    Search(
        "quantized_linear.gemv_triton",
        "gemv ",
        {"BLOCK_O": (2, 4), "BLOCK_W": (256, 512), "EARLY": (0, 1), "num_warps": (2, 4)},
        at_call=True,
    ),
    *(Search("quantized_linear.triton", prefix, grid, at_call=True) for prefix, grid in QUANTIZED_GRIDS.items()),
]
SEARCHES = [
    Search(
        "quantized_linear.gemv_triton",
        "gemv ",
        {"BLOCK_O": (2, 4, 8), "BLOCK_W": (256, 512), "EARLY": (0, 1), "num_warps": (2, 4)},
    ),
    Search(
        "quantized_linear.triton",
        "T=16 ",
        {"BLOCK_O": (64, 128), "SPLITS": (1, 2, 4, 8), "num_stages": (3, 5, 7)},
    ),
    Search(
        "quantized_linear.triton",
        "T=32 ",
        {"BLOCK_O": (64, 128), "SPLITS": (1, 2, 4, 8), "SUMMED": (0, 1), "num_stages": (5,)},
    ),
    Search(
        "quantized_linear.triton",
        "T=64 ",
        {"BLOCK_O": (64, 128), "SPLITS": (1, 2, 4), "SUMMED": (0, 1), "num_warps": (4,)},
    ),
    Search(
        "quantized_linear.triton",
        "T=128 ",
        {"BLOCK_T": (64, 128), "SPLITS": (1, 2, 4), "num_warps": (4, 8), "DENSE": (0,)},
    ),
    Search(
        "quantized_linear.triton",
        "T=256 ",
        {"BLOCK_T": (64, 128), "SPLITS": (1, 2), "num_warps": (8,), "DENSE": (0,)},
    ),
]
SEARCHES = [
    Search(
        "paged_attention.triton", "decode ", {"BLOCK_N": (32, 64, 128), "num_warps": (4, 8), "num_stages": (2, 3, 4)}
    ),
    Search("paged_attention.triton", "merge ", {"num_warps": WARPS[:4]}),
    Search(
        "paged_attention.triton",
        "ragged ",
        {"BLOCK_M": (64, 128), "BLOCK_N": (64, 128), "num_warps": (4, 8), "num_stages": (2, 3)},
    ),
    Search("qkv_rotary.triton", "D=", {"BLOCK_H": (2, 4, 8, 16, 32), "num_warps": WARPS[:4]}),
    Search("rms_norm.triton", "M=", {"num_warps": WARPS}),
    Search("gated_activation.triton", "F=", {"BLOCK_F": (512, 1024, 2048, 4096), "num_warps": WARPS[1:4]}),
    Search("embedding.triton", "M=", {"BLOCK_M": (1024, 2048, 4096), "num_warps": WARPS[1:4]}),
    Search(
        "linear.triton",
        "O=",
        {"BLOCK_T": (64, 128), "BLOCK_O": (64, 128), "BLOCK_I": (64,), "num_warps": (4, 8), "num_stages": (3, 4)},
    ),
    Search(
        "experts.triton",
        "O=",
        {"BLOCK_T": (16, 32, 64), "BLOCK_O": (64, 128), "BLOCK_I": (64,), "num_warps": (4, 8), "num_stages": (3, 4)},
    ),
    *QUANTIZED_SEARCHES,
    Search("sampling.triton", "choose ", {"BLOCK_V": (1024, 2048), "CHUNK_V": (4096, 8192), "num_warps": (4, 8)}),
    Search("sampling.filters_triton", "filters ", {"CHUNK_V": (2048, 4096, 8192, 16384), "num_warps": (4, 8, 16)}),
    Search(
        "linear.gemv_triton",
        "gemv ",
        {"BLOCK_O": (2, 4, 8, 16), "BLOCK_I": (512, 1024, 2048), "STAGES": (1, 3, 4), "num_warps": (4, 8)},
    ),
    Search("logprobs.triton", "V=", {"CHUNK_V": (2048, 4096, 8192, 16384), "num_warps": (4, 8, 16)}),
    Search("logit_mask.triton", "V=", {"BLOCK_V": (1024, 2048, 4096, 8192), "num_warps": (4, 8)}),
]

# what most of a step of Llama-3.1-8B's is spent in; more stages make the compiler buffer keys and values apart
QUICK_SEARCHES = [
    Search(
        "linear.gemv_triton",
        "gemv ",
        {"BLOCK_O": (2, 4, 8), "BLOCK_I": (512, 1024, 2048), "STAGES": (1, 4), "num_warps": (4,)},
        "linear",
    ),
    Search(
        "paged_attention.triton",
        "ragged ",
        {"BLOCK_M": (128,), "BLOCK_N": (64, 128), "num_warps": (4, 8), "num_stages": (3, 4)},
        "prefill",
    ),
    Search("sampling.filters_triton", "filters ", {"CHUNK_V": (2048, 4096, 8192, 16384), "num_warps": (4, 8, 16)}),
    Search(
        "paged_attention.triton",
        "decode ",
        {"BLOCK_N": (64, 128), "num_warps": (2, 4), "num_stages": (3, 5)},
        "decode",
    ),
    Search("paged_attention.triton", "merge ", {"num_warps": (1, 2, 4)}, "decode"),
]


def tune(
    kernels: KernelSet, device: torch.device, tiny: bool, path: Path, ops: Sequence[str] = (), quick: bool = False
) -> Iterator[Unit]:
    """Of all kernels, or of some folders. What wins is in use from then on, and stands in the file `path`.

    `quick`: decode and prefill attention of Llama-3.1-8B's shape alone, with more stages.
    """
    if quick and not ops and not tiny:
        searches, cases = QUICK_SEARCHES, list(_quick_cases(kernels, device))
    else:
        searches = [search for search in SEARCHES if not ops or search.module.partition(".")[0] in ops]
        cases = list(_cases(kernels, device, tiny, ops))
    modules = {search.module: import_module(f"kernels.{search.module}") for search in searches}
    asking = _asking(cases, modules, device)
    jobs = [
        _Job(search, modules[search.module], name, timed, list(search.candidates())[: 2 if tiny else None])
        for search in searches
        for name in sorted(key for owner, key in asking if owner == search.module and key.startswith(search.prefix))
        if (timed := [case for case in asking[search.module, name] if case.name.startswith(search.timed)])
    ]
    if ahead := [job for job in jobs if job.search.at_call]:
        yield unit(_compiled, ahead, device)
    for job in jobs:
        yield unit(_search, f"{job.search.module}: {job.name}", job, device, path)


@dataclass(frozen=True)
class _Job:
    """A search of one case of a table."""

    search: Search
    module: ModuleType
    name: str
    cases: list[Case]
    candidates: list[dict[str, int]]


def _compiled(jobs: list[_Job], device: torch.device) -> Row:
    """What all of them launch at once: a search's own few variants do not keep all cores busy."""
    began_s = time.perf_counter()

    def launch() -> None:
        for job in jobs:
            _launch_each(job, device)

    num_variants = compile_ahead(launch, device)
    took_s = round(time.perf_counter() - began_s, 2)
    return {"name": "compile", "shape": f"{len(jobs)} searches", "variants": num_variants, "s": took_s}


def _cases(kernels: KernelSet, device: torch.device, tiny: bool, ops: Sequence[str]) -> Iterator[Case]:
    if not ops or {"quantized_linear"} != set(ops):
        yield from (case for case in kernel_cases(kernels, device, tiny) if tiny or case.shape.startswith(SHAPES))
    if not ops or "quantized_linear" in ops:
        yield from quantized_cases(kernels, device, tiny)


def _quick_cases(kernels: KernelSet, device: torch.device) -> Iterator[Case]:
    yield from (case for case in linear_cases(kernels, 1, device, False) if case.name == "linear")
    filters = "keep_top_k", "keep_top_p"
    yield from (case for case in sampling_cases(kernels, 128, 128_256, device) if case.op in filters)
    llama, small = ((32, 8), 128), ((9, 3), 64)
    for heads, shapes in ((llama, ((1, 1024), (64, 1024), (32, 8192))), (small, ((1, 1024), (32, 8192)))):
        for batch, context in shapes:
            yield attention_case("decode", kernels, AttentionShape.decode(batch, context, *heads), device)
        yield attention_case("prefill", kernels, AttentionShape.prefill(8192, *heads), device)
    blocks_of_64 = AttentionRules(block_size=64)
    yield attention_case("prefill, blocks of 64,", kernels, AttentionShape.prefill(8192, *llama), device, blocks_of_64)


def _asking(
    cases: list[Case], modules: dict[str, ModuleType], device: torch.device
) -> dict[tuple[str, str], list[Case]]:
    """The timed cases that ask for a table's case, which they show by running once."""
    asking = defaultdict(list)
    for case in cases:
        for module in modules.values():
            _table(module, device).asked.clear()
            _forget(module)
        try:
            with noted() if device.type == "cuda" else nullcontext():
                case.make()()
        except Exception:  # as for want of memory: it asks for nothing then
            continue
        for name, module in modules.items():
            for key in _table(module, device).asked:
                asking[name, key].append(case)
    return asking


def _search(about: str, job: _Job, device: torch.device, path: Path) -> Iterator[Row]:
    """A row a candidate, with its share of the time before and microseconds by case; what is best so far is written."""
    best = _table(job.module, device).get(job.name, None)
    if not job.search.at_call:  # the others are compiled
        compile_ahead(partial(_launch_each, job, device), device)
    kept = _works(job, device) if job.search.at_call else None

    def times_of(config: dict[str, int] | None) -> list[float]:
        _set(job.module, config, job.name, device)
        return [measure(works, device)["median_us"] for works in kept or _works(job, device)]

    before = times_of(best)
    shapes = [f"{case.name} {case.shape}" for case in job.cases]
    yield {"name": "before", "shape": about, "config": best, "cases": shapes, "us": before}
    least = 1.0
    for candidate in job.candidates:
        try:
            times = times_of(candidate)
        except Exception as error:  # too large for the device, mostly
            yield {"name": "tried", "config": candidate, "why_not": reason(error)}
            continue
        share = sum(new / old for new, old in zip(times, before, strict=True)) / len(job.cases)
        yield {"name": "tried", "config": candidate, "share_of_time": round(share, 3), "us": times}
        if share < least - WIN:
            least, best = share, candidate
            add_config(path, job.search.module, job.name, best, device)
    _set(job.module, best, job.name, device)
    yield {
        "name": "tune",
        "shape": about,
        "config": best,
        "share_of_time": round(least, 3),
        "tried": len(job.candidates),
    }


def _works(job: _Job, device: torch.device) -> list[list[Work]]:
    """Of each case, on as many buffers as exceed the cache."""
    return [[case.make() for _ in range(copies(case.num_bytes, device))] for case in job.cases]


def _launch_each(job: _Job, device: torch.device) -> None:
    kept = [case.make() for case in job.cases] if job.search.at_call else None
    before = _table(job.module, device).get(job.name, None)
    for candidate in job.candidates:
        _set(job.module, candidate, job.name, device)
        for work in kept or [case.make() for case in job.cases]:
            work()
    _set(job.module, before, job.name, device)


def _set(module: ModuleType, config: dict[str, int] | None, name: str, device: torch.device) -> None:
    table = _table(module, device)
    table.pop(name, None)
    if config is not None:
        table[name] = config
    _forget(module)


def _table(module: ModuleType, device: torch.device) -> Any:
    return measured(str(module.__file__), device)


def _forget(module: ModuleType) -> None:
    """Some modules keep what they worked out."""
    clear: Callable[[], None] = getattr(module.launch, "cache_clear", lambda: None)
    clear()
