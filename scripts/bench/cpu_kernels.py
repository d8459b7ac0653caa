"""Speed of the CPU kernels for each instruction set that this machine runs, beside oneDNN.

    OMP_WAIT_POLICY=passive python -m scripts.bench.cpu_kernels --threads 1

Matrices are taken in turn, so many that the second cache holds none of them when it is their turn again. A linear
layer's floor is what must pass through memory at the bandwidth of a plain read, or its multiplications at the speed of
a large bfloat16 product, whichever takes longer.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import torch

from kernels.linear import cpu as linear_cpu
from kernels.linear import onednn
from kernels.native.compiler import Compiler, find_compiler
from kernels.native.instruction_set import INSTRUCTION_SETS, cpu_flags, find_instruction_set
from kernels.paged_attention import cpu as paged_attention_cpu
from kernels.paged_attention.spec import AttentionLayout, AttentionSpec
from kernels.quantized_linear import cpu as quantized_linear_cpu
from kernels.quantized_linear import int8
from kernels.quantized_linear.reference import GroupQuantized
from scripts.bench.engine import measure_ceilings
from scripts.bench.record import print_json

__all__ = ["main"]

SHAPES = "1536x576", "576x1536", "49152x576"
BYTES_IN_TURN = 96 << 20
BLOCK_SIZE = 16


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    known = {**measure_ceilings(), "instruction_set": find_instruction_set()[0].name, "threads": options.threads}
    print("  ".join(f"{key}={value}" for key, value in known.items()), flush=True)
    rows = []
    for row in (*_linears(options, known), *_attentions(options)):
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row)
    print_json({"bench": "cpu_kernels", **known, "rows": rows})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="OUTxIN")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 32, 64, 256])
    parser.add_argument("--sets", nargs="+", help="instruction sets; by default all that this machine runs")
    parser.add_argument("--seconds", type=float, default=0.15, help="for each figure")
    parser.add_argument("--context", type=int, nargs="+", default=[512, 3072])
    return parser.parse_args()


def _compilers_of(set_names: list[str] | None) -> Iterator[tuple[str, Compiler]]:
    compiler, flags = find_compiler(), cpu_flags()
    assert compiler is not None, "no C compiler"
    for name, one in INSTRUCTION_SETS.items():
        if one.machine == compiler.instructions.machine and not one.missing(flags) and name in (set_names or [name]):
            yield name, compiler.for_instructions(one)


def _linears(options: argparse.Namespace, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kinds: dict[str, tuple[Callable[..., Any], int]] = {"oneDNN": (onednn.Linear, 16)} if onednn.is_supported() else {}
    for name, compiler in _compilers_of(options.sets):
        kinds[name] = linear_cpu.build(compiler), 16
        if quantized := quantized_linear_cpu.build(compiler):
            kinds |= {f"{name}, 4 bits": (quantized, 4), f"{name}, 8 bits": (quantized, 8)}
        if of_ints := int8.build(compiler):
            kinds |= {f"{name}, 4 bits, int8": (of_ints, 4), f"{name}, 8 bits, int8": (of_ints, 8)}
    for shape in options.shapes:
        num_out, num_in = map(int, shape.split("x"))
        for kind, (make, bits) in kinds.items():
            num_bytes = num_out * num_in * bits // 8
            matrices = [make(_weight(num_out, num_in, bits)) for _ in range(max(2, BYTES_IN_TURN // num_bytes))]
            for num_rows in options.rows:
                x = torch.randn(num_rows, num_in).bfloat16()
                took_s = _median_s(partial(_next, cycle(matrices), x), options.seconds)
                flops = 2 * num_rows * num_out * num_in
                floor_s = max(num_bytes / known["read_gb_s"], flops / known["bf16_gflop_s"]) / 1e9
                yield {
                    "linear": shape,
                    "kind": kind,
                    "rows": num_rows,
                    "us": round(took_s * 1e6, 1),
                    "gflop_s": round(flops / took_s / 1e9),
                    "gb_s": round(num_bytes / took_s / 1e9, 1),
                    "share_of_floor": round(floor_s / took_s, 2),
                }


def _next(turn: Iterator[Callable[[torch.Tensor], torch.Tensor]], x: torch.Tensor) -> None:
    next(turn)(x)


def _weight(num_out: int, num_in: int, bits: int) -> torch.Tensor | GroupQuantized:
    if bits == 16:
        return torch.randn(num_out, num_in).bfloat16()
    least, groups = -(1 << bits - 1), (num_out, num_in // 32)
    ints = torch.randint(least, -least, (num_out, num_in)).to(torch.int8)
    return GroupQuantized(ints, torch.rand(groups), torch.randn(groups) if bits == 4 else None, least, bits)


def _attentions(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """SmolLM2's heads: 9 of 64 dimensions for 3 of keys."""
    heads, kv_heads, dim = 9, 3, 64
    spec = AttentionSpec(scale=dim**-0.5)
    for name, compiler in _compilers_of(options.sets):
        attend = paged_attention_cpu.build(compiler)
        for context in options.context:
            for num_seqs, num_queries in ((1, 1), (16, 1), (1, 256)):
                layout, cache = _paged(num_seqs, num_queries, context, kv_heads, dim)
                q = torch.randn(num_seqs * num_queries, heads, dim).bfloat16()
                took_s = _median_s(partial(attend, q, cache, layout, spec), options.seconds)
                pairs = num_seqs * num_queries * (2 * context - num_queries + 1) // 2
                num_bytes = num_seqs * context * kv_heads * dim * 4
                yield {
                    "attention": f"{num_seqs} x {num_queries} of {context}",
                    "kind": name,
                    "us": round(took_s * 1e6, 1),
                    "gflop_s": round(4 * pairs * heads * dim / took_s / 1e9),
                    "gb_s": round(num_bytes / took_s / 1e9, 1),
                }


def _paged(
    num_seqs: int, num_queries: int, context: int, kv_heads: int, dim: int
) -> tuple[AttentionLayout, tuple[torch.Tensor, torch.Tensor]]:
    width = -(-context // BLOCK_SIZE)
    table = torch.randperm(num_seqs * width, dtype=torch.int32).view(num_seqs, width)
    cache = torch.randn(2, num_seqs * width, kv_heads, BLOCK_SIZE, dim).bfloat16()
    starts = torch.arange(num_seqs + 1, dtype=torch.int32) * num_queries
    lens = torch.full((num_seqs,), context, dtype=torch.int32)
    return AttentionLayout(starts, lens, table), (cache[0], cache[1])


def _median_s(work: Callable[[], Any], seconds: float) -> float:
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
