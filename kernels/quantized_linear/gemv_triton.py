"""GEMV of a group-quantized matrix in Triton: what decoding of a single sequence with weights of 4 or 8 bits waits for.

A thread reads 16 bytes of an output's row at a time, 32 codes of 4 bits, and keeps the inputs that belong to them for
all outputs of its program. A code costs three instructions, as one has time for at the memory's speed (an H200 reads
18 bytes per SM and cycle): the code becomes the mantissa of a number that begins at 2^23 where it stands in its word,
2^23 is taken off, what is left is multiplied by an input that was divided by the place beforehand. All of it is exact,
so the sum of a group is one of integers; its factor and offset are applied once to four words. Words are those of
kernels/quantized_linear/triton.py.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["PackedWeight", "gemv", "launch"]

EXPONENT = 0x4B000000  # 2^23 in float32, where integers are mantissas


@dataclass(frozen=True)
class PackedWeight:
    """A group-quantized matrix in words as kernels/quantized_linear/triton.py packs them. Tensors are contiguous."""

    words_OJ: Tensor  # int32
    factors_GO: Tensor  # fp32
    offsets_GO: Tensor | None  # fp32
    bits: int  # 4 or 8
    least: int  # the integer whose code is 0
    group: int  # inputs


def gemv(x_1I: Tensor, weight: PackedWeight, bias_O: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    """[1, O] in `out_dtype`. `x_1I` and `bias_O` are contiguous."""
    num_out, num_in = len(weight.words_OJ), x_1I.shape[1]
    out_1O = torch.empty((1, num_out), dtype=out_dtype, device=x_1I.device)
    config = launch(num_out, num_in, weight.bits, x_1I.device)
    _gemv[triton.cdiv(num_out, config["BLOCK_O"]),](
        x_1I, weight.words_OJ, weight.factors_GO, weight.offsets_GO, bias_O, out_1O, EXPONENT,
        OFFSETS=weight.offsets_GO is not None, BIAS=bias_O is not None, LEAST=weight.least, BITS=weight.bits,
        NUM_OUT=num_out, NUM_IN=num_in, GROUP=weight.group, **config,
    )  # fmt: skip
    return out_1O


def launch(num_out: int, num_in: int, bits: int, device: torch.device) -> dict[str, int]:
    """STAGES of 1 read into registers, more of them ahead into shared memory. EARLY asks for factors beforehand."""
    num_words = triton.cdiv(num_in * bits, 512) * 16
    block_w = 512 if num_words % 512 == 0 or num_words > 2048 else 256
    config = {"BLOCK_O": 4, "BLOCK_W": block_w, "STAGES": 1, "EARLY": 1, "num_warps": block_w // 128, "num_stages": 1}
    return {**config, **measured(__file__, device).get(f"gemv O={num_out} I={num_in} bits={bits}", {})}


@triton.jit
def _gemv(
    x, words, factors, offsets, bias, out, exponent,
    OFFSETS: tl.constexpr, BIAS: tl.constexpr, LEAST: tl.constexpr, BITS: tl.constexpr,
    NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_W: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """BLOCK_O outputs a program, BLOCK_W words of each at a time.

    `exponent` is EXPONENT, an argument: LOP3 takes one constant, and the mask is one already.
    """
    CHUNK: tl.constexpr = 512 // BITS
    WORDS: tl.constexpr = (NUM_IN + CHUNK - 1) // CHUNK * 16
    GROUPS: tl.constexpr = CHUNK // GROUP if GROUP < CHUNK else 1  # in a chunk
    RUNS: tl.constexpr = CHUNK // 32 // GROUPS  # in a group
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    w = tl.arange(0, BLOCK_W)
    pairs = tl.arange(0, 2 * BLOCK_W)
    fours = tl.arange(0, BLOCK_W // 4)  # words whose inputs are of one group in each run
    is_out = (o < NUM_OUT)[:, None]
    words_at = words + o.to(tl.int64)[:, None] * WORDS + w[None, :]
    x_at = pairs // 32 * CHUNK + pairs % 32
    acc = tl.zeros([BLOCK_O, BLOCK_W // 4], tl.float32)
    for base in tl.range(0, WORDS, BLOCK_W, num_stages=STAGES):
        if (WORDS % BLOCK_W == 0) & (NUM_OUT % BLOCK_O == 0):
            packed = tl.load(words_at + base)
        else:
            packed = tl.load(words_at + base, mask=is_out & (base + w < WORDS)[None, :], other=0)
        for g in tl.static_range(GROUPS):
            group = ((base // 16 + fours // 4) * CHUNK + g * RUNS * 32) // GROUP
            at = group[None, :] * NUM_OUT + o[:, None]
            inside = is_out & (base // 4 + fours < WORDS // 4)[None, :]
            if (WORDS % BLOCK_W == 0) & (NUM_OUT % BLOCK_O == 0):
                factor = tl.load(factors + at)
                offset = tl.load(offsets + at) if OFFSETS else factor
            else:
                factor = tl.load(factors + at, mask=inside, other=0.0)
                offset = tl.load(offsets + at, mask=inside, other=0.0) if OFFSETS else factor
            if EARLY:  # else the compiler has them asked for where they are needed, to be waited for there
                tl.debug_barrier()
            part = tl.zeros([BLOCK_O, BLOCK_W], tl.float32)
            x_sum = tl.zeros([BLOCK_W], tl.float32)
            for n in tl.static_range(g * RUNS, (g + 1) * RUNS):
                i = base // 16 * CHUNK + n * 32 + x_at
                if NUM_IN % (BLOCK_W * 32 // BITS) == 0:
                    row = tl.load(x + i)
                else:
                    row = tl.load(x + i, mask=i < NUM_IN, other=0.0)
                low, high = tl.split(tl.reshape(row.to(tl.float32), [BLOCK_W, 2]))
                part += _codes(packed, exponent, n, 0, LEAST, BITS) * _divided(low, n, 0, BITS)[None, :]
                part += _codes(packed, exponent, n, 1, LEAST, BITS) * _divided(high, n, 1, BITS)[None, :]
                x_sum += low + high
            acc += tl.sum(tl.reshape(part, [BLOCK_O, BLOCK_W // 4, 4]), 2) * factor
            if OFFSETS:
                acc += tl.sum(tl.reshape(x_sum, [BLOCK_W // 4, 4]), 1)[None, :] * offset
    sums = tl.sum(acc, 1)
    if BIAS:
        sums += tl.load(bias + o, mask=o < NUM_OUT, other=0.0).to(tl.float32)
    tl.store(out + o, sums.to(out.dtype.element_ty), mask=o < NUM_OUT)


@triton.jit
def _codes(words, exponent, N: tl.constexpr, HALF: tl.constexpr, LEAST: tl.constexpr, BITS: tl.constexpr):
    """The integers of run N, of inputs that are even or odd, times 2^PLACE: their codes lie in the mantissa's 23 bits,
    or are moved there.
    """
    BIT: tl.constexpr = N * BITS + HALF * 16
    PLACE: tl.constexpr = BIT - 12 if BIT + BITS > 23 else BIT
    moved = words >> (BIT - PLACE)
    number = (moved & (((1 << BITS) - 1) << PLACE) | exponent).to(tl.float32, bitcast=True)
    return number - (8388608.0 - LEAST * (1 << PLACE))


@triton.jit
def _divided(x, N: tl.constexpr, HALF: tl.constexpr, BITS: tl.constexpr):
    """By 2^PLACE."""
    BIT: tl.constexpr = N * BITS + HALF * 16
    PLACE: tl.constexpr = BIT - 12 if BIT + BITS > 23 else BIT
    return x * (1.0 / (1 << PLACE))
