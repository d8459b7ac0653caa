"""Group-quantized linear layers in Triton: weights read once as they are, dequantized in registers, where integers are
exact.

One row has a kernel of its own (gemv_triton.py). Few rows are multiplied by tensor cores, group by group: the matrix is
the left operand, which wgmma takes from registers, so that a code is unpacked once, by the thread that has loaded it,
and never goes to shared memory as a number; rows of the batch are the narrow side, so that 16 of them are enough. Sums
that are cut by inputs are merged in order; the cuts follow from the weight's shape alone. Many rows pay for the
unpacking: for them the matrix is dequantized first, which rounds its numbers, and left to the library. Where rows must
be the same in any batch there is one way for all.

weight, packed: a chunk of inputs of an output is 16 words of int32, runs of 32 inputs. Word w has the codes of inputs
32 n + 2 w and 32 n + 2 w + 1, of 4 bits in bits [4 n, 4 n + 4) and [16 + 4 n, 20 + 4 n), of 8 bits in [8 n, 8 n + 8)
and [16 + 8 n, 24 + 8 n): one shift of all words gives a run, two neighbours in the halves of a register, as operands
of 16 bits have them. For those, 4 bits are put into the mantissas of twice 16.0 (three instructions for two codes);
that each number is 16 too large is taken off with the group's offset, which multiplies the sum of the group's inputs.
That sum is a product with ones where rows are few, else it is computed once beforehand (SUMMED).
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
from kernels.quantized_linear.gemv_triton import PackedWeight, gemv
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["QuantizedLinear", "launch"]

CHUNK_WORDS = 16
RUN = 32  # inputs
NUM_PROGRAMS = 400  # three on each multiprocessor of a large device: sums are cut until there are about so many
MANY_ROWS = 256  # above them the matrix is dequantized, up to them where launch parameters say so
INVARIANT_ROWS = 64  # whose launch parameters all batches have where rows must be the same

# launch parameters of float32, whose operands take twice the room, and three products
WIDE = {"BLOCK_T": 32, "BLOCK_O": 64, "SUMMED": 0, "num_warps": 4, "num_stages": 2}


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
        self._chunk = CHUNK_WORDS * 32 // weight.bits
        group = weight.group if weight.group % self._chunk == 0 else gcd(weight.group, self._chunk)
        codes_OI = (weight.ints_OI.to(torch.int16) - weight.least).to(torch.uint8)
        self._weight = PackedWeight(
            _packed(pad(codes_OI, (0, -self._num_in % self._chunk)), weight.bits),
            self._by_group(weight, weight.factors_OG.float(), group),
            None if weight.offsets_OG is None else self._by_group(weight, weight.offsets_OG.float(), group),
            weight.bits,
            weight.least,
            group,
        )
        self._bias_O = bias_O
        self._out_dtype = out_dtype
        self._batch_invariant = batch_invariant

    def __call__(self, x_TI: Tensor) -> Tensor:
        num_rows = x_TI.shape[0]
        x_TI = x_TI.contiguous()
        out_dtype = self._out_dtype or x_TI.dtype
        if self._batch_invariant:
            return self._product(x_TI, out_dtype, self._launch(INVARIANT_ROWS, x_TI.dtype))
        if num_rows == 1:
            return gemv(x_TI, self._weight, self._bias_O, out_dtype)
        config = self._launch(num_rows, x_TI.dtype) if num_rows <= MANY_ROWS else {"DENSE": 1}
        if config["DENSE"]:
            return Linear(self._widened(x_TI.dtype), self._bias_O, out_dtype)(x_TI)
        return self._product(x_TI, out_dtype, config)

    def _launch(self, num_rows: int, dtype: torch.dtype) -> dict[str, int]:
        bits, group, device = self._weight.bits, self._weight.group, self._weight.words_OJ.device
        config = launch(num_rows, self._num_out, self._num_in, bits, group, device)
        return {**config, **WIDE} if dtype == torch.float32 else config

    def _product(self, x_TI: Tensor, out_dtype: torch.dtype, config: dict[str, int]) -> Tensor:
        num_rows, weight = x_TI.shape[0], self._weight
        config = {name: value for name, value in config.items() if name != "DENSE"}
        num_splits = config["SPLITS"]
        whole = num_splits == 1
        out_STO = torch.empty(
            (num_splits, num_rows, self._num_out), dtype=out_dtype if whole else torch.float32, device=x_TI.device
        )
        num_tiles = triton.cdiv(num_rows, config["BLOCK_T"]) * triton.cdiv(self._num_out, config["BLOCK_O"])
        bias_O = self._bias_O if whole else None
        sums_NT = self._sums(x_TI) if config["SUMMED"] else None
        _multiply[num_tiles, num_splits](
            x_TI, weight.words_OJ, weight.factors_GO, weight.offsets_GO, sums_NT, bias_O, out_STO,
            num_rows,
            OFFSETS=weight.offsets_GO is not None, BIAS=bias_O is not None, LEAST=weight.least, BITS=weight.bits,
            NUM_OUT=self._num_out, NUM_IN=self._num_in, GROUP=weight.group, **config,
        )  # fmt: skip
        return out_STO[0] if whole else self._merged(out_STO, out_dtype)

    def _sums(self, x_TI: Tensor) -> Tensor:
        """[N, T]: of the inputs that are multiplied before a factor is applied, a group or a chunk."""
        num_rows, span = x_TI.shape[0], min(self._weight.group, self._chunk)
        num_spans = triton.cdiv(self._num_in, self._chunk) * self._chunk // span
        sums_NT = torch.empty((num_spans, num_rows), dtype=torch.float32, device=x_TI.device)
        block = 8
        _sum_inputs[num_rows, triton.cdiv(num_spans, block)](
            x_TI, sums_NT, num_rows, NUM_IN=self._num_in, SPAN=span, SPANS=num_spans, BLOCK_N=block
        )
        return sums_NT

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
        weight = self._weight
        weight_OI = torch.empty((self._num_out, self._num_in), dtype=dtype, device=weight.words_OJ.device)
        block = 64
        _widen[triton.cdiv(self._num_in, self._chunk), triton.cdiv(self._num_out, block)](
            weight.words_OJ, weight.factors_GO, weight.offsets_GO, weight_OI,
            OFFSETS=weight.offsets_GO is not None, LEAST=weight.least, BITS=weight.bits,
            NUM_OUT=self._num_out, NUM_IN=self._num_in, GROUP=weight.group, BLOCK_O=block,
        )  # fmt: skip
        return weight_OI

    def _by_group(self, weight: GroupQuantized, of_groups_OG: Tensor, group: int) -> Tensor:
        """[G, O] for groups of `group` inputs, zeros behind the last of them up to a whole chunk."""
        repeated = of_groups_OG.repeat_interleave(weight.group // group, dim=1)
        num_groups = triton.cdiv(triton.cdiv(self._num_in, self._chunk) * self._chunk, group)
        return pad(repeated, (0, num_groups - repeated.shape[1])).T.contiguous()


def _packed(codes_OI: Tensor, bits: int) -> Tensor:
    """[O, J] int32"""
    num_runs = 16 // bits  # of a chunk
    pairs = codes_OI.view(len(codes_OI), -1, num_runs, CHUNK_WORDS, 2)
    words = torch.zeros((len(pairs), pairs.shape[1], CHUNK_WORDS), dtype=torch.int32, device=pairs.device)
    for n in range(num_runs):
        for half in range(2):
            words |= pairs[:, :, n, :, half].to(torch.int32) << bits * n + 16 * half
    return words.flatten(1)


def launch(num_rows: int, num_out: int, num_in: int, bits: int, group: int, device: torch.device) -> dict[str, int]:
    """For 2 to MANY_ROWS rows. DENSE of 1: the matrix is dequantized, and the rest is not used.

    wgmma takes 64 outputs for 4 warps. Groups smaller than a chunk take registers: large tiles spill them.
    """
    chunk = CHUNK_WORDS * 32 // bits
    rows = max(16, triton.next_power_of_2(num_rows))
    tile = {"BLOCK_T": min(rows, 128 if group >= chunk else 64), "BLOCK_O": 64 if rows <= 32 else 128}
    num_warps = 4 if rows <= 32 or (rows == 64 and group >= chunk) else 8
    cuts = NUM_PROGRAMS // triton.cdiv(num_out, tile["BLOCK_O"]) // (1 if num_warps == 4 else 2)
    splits = 1 << max(1, min(cuts, triton.cdiv(num_in, 4 * chunk), 8)).bit_length() - 1
    more = {"SPLITS": splits, "SUMMED": int(rows > 32), "DENSE": int(rows > 128)}
    name = f"T={rows} O={num_out} I={num_in} bits={bits} group={min(group, chunk)}"
    # with more stages a program reads further ahead: with few rows, most of what it reads are weights
    return {**tile, **more, "num_warps": num_warps, "num_stages": 4, **measured(__file__, device).get(name, {})}


@triton.jit(do_not_specialize=["num_rows"])
def _multiply(
    x, words, factors, offsets, sums, bias, out, num_rows,
    OFFSETS: tl.constexpr, BIAS: tl.constexpr, LEAST: tl.constexpr, BITS: tl.constexpr,
    NUM_OUT: tl.constexpr, NUM_IN: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, SPLITS: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """One tile of the output, over one split's chunks of inputs. Programs that run together share what they read: all
    tiles of rows, then the next tile of outputs.
    """
    CHUNK: tl.constexpr = 512 // BITS
    RUN: tl.constexpr = 32
    CHUNKS: tl.constexpr = (NUM_IN + CHUNK - 1) // CHUNK
    CHUNKS_OF_SPLIT: tl.constexpr = (CHUNKS + SPLITS - 1) // SPLITS
    GROUPS: tl.constexpr = CHUNK // GROUP if GROUP < CHUNK else 1  # in a chunk
    RUNS: tl.constexpr = CHUNK // RUN // GROUPS  # in a group
    BIASED: tl.constexpr = (BITS == 4) & (x.dtype.element_ty != tl.float32)  # numbers are 16 more than codes
    tiles_t = tl.cdiv(num_rows, BLOCK_T)
    tile = tl.program_id(0)
    split = tl.program_id(1)
    t = tile % tiles_t * BLOCK_T + tl.arange(0, BLOCK_T)
    o = tile // tiles_t * BLOCK_O + tl.arange(0, BLOCK_O)
    w = tl.arange(0, 16)
    i = tl.arange(0, RUN)
    is_row, is_out = (t < num_rows)[None, :], o < NUM_OUT
    words_at = words + o.to(tl.int64)[:, None] * (CHUNKS * 16) + w[None, :]
    x_at = x + t.to(tl.int64)[None, :] * NUM_IN + i[:, None]
    ones = tl.full([BLOCK_O, RUN], 1.0, tl.float32).to(x.dtype.element_ty)
    acc = tl.zeros([BLOCK_O, BLOCK_T], tl.float32)
    first = split * CHUNKS_OF_SPLIT
    last = tl.minimum(first + CHUNKS_OF_SPLIT, CHUNKS)
    if GROUPS == 1:  # read a chunk ahead: nothing else here waits for what it has just asked for
        group = tl.minimum(first, CHUNKS - 1) * CHUNK // GROUP
        next_factor, next_offset = _of_group(factors, offsets, group, o, is_out, OFFSETS, BIASED, LEAST, NUM_OUT)
    for chunk in range(first, last):
        if NUM_OUT % BLOCK_O == 0:
            packed = tl.load(words_at + chunk * 16)
        else:
            packed = tl.load(words_at + chunk * 16, mask=is_out[:, None], other=0)
        if GROUPS == 1:
            factor, offset = next_factor, next_offset
            group = tl.minimum(chunk + 1, CHUNKS - 1) * CHUNK // GROUP
            next_factor, next_offset = _of_group(factors, offsets, group, o, is_out, OFFSETS, BIASED, LEAST, NUM_OUT)
        for g in tl.static_range(GROUPS):
            if GROUPS > 1:
                group = chunk * GROUPS + g
                factor, offset = _of_group(factors, offsets, group, o, is_out, OFFSETS, BIASED, LEAST, NUM_OUT)
            part = tl.zeros([BLOCK_O, BLOCK_T], tl.float32)
            x_sum = tl.zeros([BLOCK_O, BLOCK_T], tl.float32)  # in each of its rows
            for n in tl.static_range(g * RUNS, (g + 1) * RUNS):
                base = chunk * CHUNK + n * RUN
                if NUM_IN % CHUNK == 0:
                    x_tile = tl.load(x_at + base, mask=is_row, other=0.0)
                else:
                    x_tile = tl.load(x_at + base, mask=is_row & (base + i < NUM_IN)[:, None], other=0.0)
                numbers = _numbers(packed, n, LEAST, BITS, BIASED, x.dtype.element_ty)
                part = tl.dot(numbers, x_tile, part, input_precision="tf32x3")
                if (OFFSETS or BIASED) and not SUMMED:
                    x_sum = tl.dot(ones, x_tile, x_sum, input_precision="tf32x3")
            acc += part * factor[:, None]
            if (OFFSETS or BIASED) and not SUMMED:
                acc += x_sum * offset[:, None]
    if (OFFSETS or BIASED) and SUMMED:  # offsets of groups times the groups' sums: a product as well
        spans = tl.arange(0, 16)
        for base in tl.range(first * GROUPS, last * GROUPS, 16, num_stages=1):
            span = base + spans
            is_span = span < last * GROUPS
            of_span = _of_group(
                factors, offsets, (span * (CHUNK // GROUPS) // GROUP)[None, :], o[:, None],
                is_out[:, None] & is_span[None, :], OFFSETS, BIASED, LEAST, NUM_OUT,
            )  # fmt: skip
            sums_at = sums + span[:, None] * num_rows + t[None, :]
            x_sums = tl.load(sums_at, mask=is_span[:, None] & is_row, other=0.0)
            acc = tl.dot(of_span[1], x_sums, acc, input_precision="tf32x3")
    if BIAS:
        acc += tl.load(bias + o, mask=is_out, other=0.0).to(tl.float32)[:, None]
    at = (split * num_rows + t).to(tl.int64)[None, :] * NUM_OUT + o[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=is_row & is_out[:, None])


@triton.jit
def _of_group(
    factors, offsets, group, o, mask,
    OFFSETS: tl.constexpr, BIASED: tl.constexpr, LEAST: tl.constexpr, NUM_OUT: tl.constexpr,
):  # fmt: skip
    """What products with numbers are multiplied by, and what the sum of the inputs is."""
    at = group * NUM_OUT + o
    factor = tl.load(factors + at, mask=mask, other=0.0)
    offset = factor * (LEAST - 16.0 if BIASED else 0.0)
    if OFFSETS:
        offset += tl.load(offsets + at, mask=mask, other=0.0)
    return factor, offset


@triton.jit
def _numbers(
    words, N: tl.constexpr, LEAST: tl.constexpr, BITS: tl.constexpr, BIASED: tl.constexpr, dtype: tl.constexpr
):  # fmt: skip
    """[O, 32]: run N of a chunk's words [O, 16]. Integers, or 16 more than codes."""
    if BIASED:
        PLACE: tl.constexpr = 3 if dtype == tl.bfloat16 else 6  # the highest bits of the mantissa
        SIXTEENS: tl.constexpr = 0x41804180 if dtype == tl.bfloat16 else 0x4C004C00  # 16.0 twice
        if BITS * N < PLACE:
            moved = words << (PLACE - BITS * N)
        else:
            moved = words >> (BITS * N - PLACE)
        both = moved & (0x000F000F << PLACE) | SIXTEENS
        low, high = both.to(tl.int16), (both >> 16).to(tl.int16)
        return tl.reshape(tl.join(low, high), [words.shape[0], 32]).to(dtype, bitcast=True)
    else:
        low = (words >> (BITS * N) & (1 << BITS) - 1) + LEAST
        high = (words >> (BITS * N + 16) & (1 << BITS) - 1) + LEAST
        return tl.reshape(tl.join(low, high), [words.shape[0], 32]).to(tl.float32).to(dtype)


@triton.jit(do_not_specialize=["num_rows"])
def _sum_inputs(
    x, out, num_rows,
    NUM_IN: tl.constexpr, SPAN: tl.constexpr, SPANS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Some spans of a row."""
    t = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    i = n[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
    values = tl.load(x + t.to(tl.int64) * NUM_IN + i, mask=i < NUM_IN, other=0.0)
    tl.store(out + n * num_rows + t, tl.sum(values.to(tl.float32), 1), mask=n < SPANS)


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
    CHUNK: tl.constexpr = 512 // BITS
    CHUNKS: tl.constexpr = (NUM_IN + CHUNK - 1) // CHUNK
    RUN: tl.constexpr = 32
    chunk = tl.program_id(0)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    is_out = o < NUM_OUT
    row_at = o.to(tl.int64)[:, None]
    words_at = words + row_at * (CHUNKS * 16) + chunk * 16 + tl.arange(0, 16)[None, :]
    packed = tl.load(words_at, mask=is_out[:, None], other=0)
    for n in tl.static_range(CHUNK // RUN):
        at = (chunk * CHUNK + n * RUN) // GROUP * NUM_OUT + o
        numbers = _numbers(packed, n, LEAST, BITS, False, tl.float32)
        numbers *= tl.load(factors + at, mask=is_out, other=0.0)[:, None]
        if OFFSETS:
            numbers += tl.load(offsets + at, mask=is_out, other=0.0)[:, None]
        i = chunk * CHUNK + n * RUN + tl.arange(0, RUN)
        inside = is_out[:, None] & (i < NUM_IN)[None, :]
        tl.store(out + row_at * NUM_IN + i[None, :], numbers.to(out.dtype.element_ty), mask=inside)
