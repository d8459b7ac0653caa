"""Group-quantized linear layers in Triton: weights read once as they are, dequantized in registers, where integers are
exact.

Few rows are multiplied with the integers, group by group, and sums that are cut by inputs are merged in order; the cuts
follow from the weight's shape alone. Many rows pay for the unpacking: for them the matrix is dequantized first, which
rounds its numbers, and left to the library. Where rows must be the same in any batch there is one way for all.

weight, packed: of 4 bits 128 inputs are 16 rows of int32; row w has in its bits [4 n, 4 n + 4) the codes of input
16 n + w. Of 8 bits they are 32 rows, with the codes of input 32 n + w in bits [8 n, 8 n + 8).
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from kernels.launch import measured
from kernels.linear.cuda import Linear
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["QuantizedLinear", "launch"]

CHUNK = 128  # inputs that are packed together
NUM_PROGRAMS = 264  # what fills a large device twice: sums are cut until there are so many
MANY_ROWS = 64  # from there on the matrix is dequantized


class QuantizedLinear:
    def __init__(
        self,
        weight: GroupQuantized,
        bias_O: Tensor | None = None,
        out_dtype: torch.dtype | None = None,
        batch_invariant: bool = False,
    ) -> None:
        """out_dtype         x's if None
        batch_invariant   a row's result is bitwise the same in any batch
        """
        self._num_out, self._num_in = weight.shape
        self._group = weight.group if weight.group % CHUNK == 0 else gcd(weight.group, CHUNK)
        self._least, self._bits = weight.least, weight.bits
        codes_OI = (weight.ints_OI.to(torch.int16) - weight.least).to(torch.uint8)
        self._words_JO = _packed(pad(codes_OI, (0, -self._num_in % CHUNK)), weight.bits)
        self._factors_GO = self._by_group(weight, weight.factors_OG)
        self._offsets_GO = None if weight.offsets_OG is None else self._by_group(weight, weight.offsets_OG)
        self._bias_O = bias_O
        self._out_dtype = out_dtype
        self._batch_invariant = batch_invariant

    def __call__(self, x_TI: Tensor) -> Tensor:
        num_rows = x_TI.shape[0]
        x_TI = x_TI.contiguous()
        out_dtype = self._out_dtype or x_TI.dtype
        if num_rows >= MANY_ROWS and not self._batch_invariant:
            return Linear(self._widened(x_TI.dtype), self._bias_O, out_dtype)(x_TI)
        rows = MANY_ROWS if self._batch_invariant else num_rows
        config = launch(rows, self._num_out, self._num_in, x_TI.device)
        num_splits = config["SPLITS"]
        whole = num_splits == 1
        out_STO = torch.empty(
            (num_splits, num_rows, self._num_out), dtype=out_dtype if whole else torch.float32, device=x_TI.device
        )
        num_tiles = triton.cdiv(num_rows, config["BLOCK_T"]) * triton.cdiv(self._num_out, config["BLOCK_O"])
        bias_O = self._bias_O if whole else None
        _multiply[num_tiles, num_splits](
            x_TI, self._words_JO, self._factors_GO, self._offsets_GO, bias_O, out_STO, num_rows,
            OFFSETS=self._offsets_GO is not None, BIAS=bias_O is not None, LEAST=self._least, BITS=self._bits,
            NUM_OUT=self._num_out, NUM_IN=self._num_in, GROUP=self._group, **config,
        )  # fmt: skip
        return out_STO[0] if whole else self._merged(out_STO, out_dtype)

    def _merged(self, parts_STO: Tensor, out_dtype: torch.dtype) -> Tensor:
        num_splits, num_rows, num_out = parts_STO.shape
        out_TO = torch.empty((num_rows, num_out), dtype=out_dtype, device=parts_STO.device)
        block = 512
        _merge[num_rows, triton.cdiv(num_out, block)](
            parts_STO, self._bias_O, out_TO, num_rows,
            BIAS=self._bias_O is not None, NUM_OUT=num_out, SPLITS=num_splits, BLOCK_O=block,
        )  # fmt: skip
        return out_TO

    def _widened(self, dtype: torch.dtype) -> Tensor:
        """[O, I]"""
        weight_OI = torch.empty((self._num_out, self._num_in), dtype=dtype, device=self._words_JO.device)
        block = 32
        _widen[triton.cdiv(self._num_out, block), triton.cdiv(self._num_in, CHUNK)](
            self._words_JO, self._factors_GO, self._offsets_GO, weight_OI,
            OFFSETS=self._offsets_GO is not None, LEAST=self._least, BITS=self._bits,
            NUM_OUT=self._num_out, NUM_IN=self._num_in, GROUP=self._group, BLOCK_O=block,
        )  # fmt: skip
        return weight_OI

    def _by_group(self, weight: GroupQuantized, of_groups_OG: Tensor) -> Tensor:
        """[G, O] for groups of `self._group` inputs, zeros behind the last of them up to a whole chunk."""
        repeated = of_groups_OG.repeat_interleave(weight.group // self._group, dim=1)
        num_groups = triton.cdiv(triton.cdiv(self._num_in, CHUNK) * CHUNK, self._group)
        return pad(repeated, (0, num_groups - repeated.shape[1])).T.contiguous()


def _packed(codes_OI: Tensor, bits: int) -> Tensor:
    """[J, O] int32"""
    in_word = 32 // bits
    codes = codes_OI.view(len(codes_OI), -1, in_word, CHUNK // in_word)
    words = torch.zeros((len(codes), codes.shape[1], CHUNK // in_word), dtype=torch.int32, device=codes.device)
    for n in range(in_word):
        words |= codes[:, :, n].to(torch.int32) << bits * n
    return words.flatten(1).T.contiguous()


def launch(num_rows: int, num_out: int, num_in: int, device: torch.device) -> dict[str, int]:
    rows = 16 if num_rows <= 16 else 32
    block_o = 64
    cuts = NUM_PROGRAMS // triton.cdiv(num_out, block_o)
    splits = max(1, min(cuts, triton.cdiv(num_in, 4 * CHUNK)))
    config = {"BLOCK_T": rows, "BLOCK_O": block_o, "SPLITS": splits, "GROUP_T": 8, "num_warps": 4, "num_stages": 3}
    return {**config, **measured(__file__, device).get(f"T={rows} O={num_out} I={num_in}", {})}


@triton.jit(do_not_specialize=["num_rows"])
def _multiply(
    x, words, factors, offsets, bias, out, num_rows,
    OFFSETS: tl.constexpr, BIAS: tl.constexpr, LEAST: tl.constexpr, BITS: tl.constexpr,
    NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, SPLITS: tl.constexpr, GROUP_T: tl.constexpr,
):  # fmt: skip
    """One tile of the output, over one split's chunks of inputs. Programs that run together share what they read:
    GROUP_T tiles of rows, then the next tile of outputs.
    """
    CHUNK: tl.constexpr = 128
    RUN: tl.constexpr = CHUNK * BITS // 32  # inputs at a time: what one shift of a chunk's words gives
    CHUNKS: tl.constexpr = (NUM_IN + CHUNK - 1) // CHUNK
    CHUNKS_OF_SPLIT: tl.constexpr = (CHUNKS + SPLITS - 1) // SPLITS
    GROUPS: tl.constexpr = CHUNK // GROUP if GROUP < CHUNK else 1  # in a chunk
    RUNS: tl.constexpr = CHUNK // RUN // GROUPS  # in a group
    tiles_t = tl.cdiv(num_rows, BLOCK_T)
    tiles_o: tl.constexpr = (NUM_OUT + BLOCK_O - 1) // BLOCK_O
    tile = tl.program_id(0)
    split = tl.program_id(1)
    first_t = tile // (GROUP_T * tiles_o) * GROUP_T
    group_t = tl.minimum(tiles_t - first_t, GROUP_T)
    inside = tile % (GROUP_T * tiles_o)
    t = (first_t + inside % group_t) * BLOCK_T + tl.arange(0, BLOCK_T)
    o = inside // group_t * BLOCK_O + tl.arange(0, BLOCK_O)
    w = tl.arange(0, RUN)
    is_row, is_out = (t < num_rows)[:, None], o < NUM_OUT
    x_at = x + t.to(tl.int64)[:, None] * NUM_IN + w[None, :]
    first = split * CHUNKS_OF_SPLIT
    words_at = words + (first * RUN + w).to(tl.int64)[:, None] * NUM_OUT + o[None, :]
    acc = tl.zeros([BLOCK_T, BLOCK_O], tl.float32)
    for chunk in range(first, tl.minimum(first + CHUNKS_OF_SPLIT, CHUNKS)):
        packed = tl.load(words_at, mask=is_out[None, :], other=0)
        words_at += RUN * NUM_OUT
        for g in tl.static_range(GROUPS):
            part = tl.zeros([BLOCK_T, BLOCK_O], tl.float32)
            x_sum = tl.zeros([BLOCK_T], tl.float32)
            for n in tl.static_range(g * RUNS, (g + 1) * RUNS):
                base = chunk * CHUNK + n * RUN
                if NUM_IN % CHUNK == 0:
                    x_tile = tl.load(x_at + base, mask=is_row, other=0.0)
                else:
                    x_tile = tl.load(x_at + base, mask=is_row & (base + w < NUM_IN)[None, :], other=0.0)
                ints = (packed >> BITS * n & (1 << BITS) - 1) + LEAST
                part = tl.dot(x_tile, ints.to(tl.float32).to(x_tile.dtype), part, input_precision="tf32x3")
                if OFFSETS:
                    x_sum += tl.sum(x_tile.to(tl.float32), 1)
            at = (chunk * CHUNK + g * (CHUNK // GROUPS)) // GROUP * NUM_OUT + o
            acc += part * tl.load(factors + at, mask=is_out, other=0.0)[None, :]
            if OFFSETS:
                acc += x_sum[:, None] * tl.load(offsets + at, mask=is_out, other=0.0)[None, :]
    if BIAS:
        acc += tl.load(bias + o, mask=is_out, other=0.0).to(tl.float32)[None, :]
    at = (split * num_rows + t).to(tl.int64)[:, None] * NUM_OUT + o[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=is_row & is_out[None, :])


@triton.jit(do_not_specialize=["num_rows"])
def _merge(
    parts, bias, out, num_rows,
    BIAS: tl.constexpr, NUM_OUT: tl.constexpr, SPLITS: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """A run of a row: the splits' sums, in order."""
    t = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    is_out = o < NUM_OUT
    acc = tl.zeros([BLOCK_O], tl.float32)
    for split in tl.static_range(SPLITS):
        acc += tl.load(parts + (split * num_rows + t) * NUM_OUT + o, mask=is_out, other=0.0)
    if BIAS:
        acc += tl.load(bias + o, mask=is_out, other=0.0).to(tl.float32)
    tl.store(out + t * NUM_OUT + o, acc.to(out.dtype.element_ty), mask=is_out)


@triton.jit
def _widen(
    words, factors, offsets, out,
    OFFSETS: tl.constexpr, LEAST: tl.constexpr, BITS: tl.constexpr,
    NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr, GROUP: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """One chunk of some outputs, as numbers."""
    CHUNK: tl.constexpr = 128
    RUN: tl.constexpr = CHUNK * BITS // 32
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    chunk = tl.program_id(1)
    w = tl.arange(0, RUN)
    is_out = (o < NUM_OUT)[None, :]
    packed = tl.load(words + (chunk * RUN + w).to(tl.int64)[:, None] * NUM_OUT + o[None, :], mask=is_out, other=0)
    for n in tl.static_range(CHUNK // RUN):
        at = (chunk * CHUNK + n * RUN) // GROUP * NUM_OUT + o
        ints = (packed >> BITS * n & (1 << BITS) - 1) + LEAST
        numbers = ints.to(tl.float32) * tl.load(factors + at, mask=o < NUM_OUT)[None, :]
        if OFFSETS:
            numbers += tl.load(offsets + at, mask=o < NUM_OUT, other=0.0)[None, :]
        i = chunk * CHUNK + n * RUN + w
        out_at = out + o.to(tl.int64)[None, :] * NUM_IN + i[:, None]
        tl.store(out_at, numbers.to(out.dtype.element_ty), mask=is_out & (i < NUM_IN)[:, None])
