from dataclasses import replace

import pytest
import torch

from kernels.linear import cpu as linear_cpu
from kernels.native.instruction_set import cpu_flags
from kernels.quantized_linear import cpu, int8, reference
from kernels.quantized_linear.reference import GroupQuantized, fake_quantize, fixed_point
from tests.kernels.cpus import COMPILERS, EMULATED

BUILT = {name: cpu.build(compiler) for name, compiler in COMPILERS.items()}
INT8 = {f"{name}, int8": int8.build(compiler) for name, compiler in COMPILERS.items()}
COMPILED = {name: kernel for name, kernel in (BUILT | INT8).items() if kernel is not None}
# they multiply weights rounded to bfloat16; there are none without AVX-512, which rounds them
BY_TILES = [name for name in COMPILED if name.endswith("amx") and "avx512_bf16" in cpu_flags()]
KINDS = {"reference": reference.QuantizedLinear, **COMPILED}


def random_ints(
    num_out: int, num_in: int, least: int = 0, offsets: bool = True, group: int = 32, bits: int = 4
) -> GroupQuantized:
    groups = num_out, num_in // group
    return GroupQuantized(
        torch.randint(least, least + (1 << bits), (num_out, num_in)).to(torch.int8),
        torch.rand(groups) * 0.1,
        torch.randn(groups) if offsets else None,
        least,
        bits,
    )


BY_INT16 = [
    name
    for name, kernel in BUILT.items()
    if kernel is not None and isinstance(kernel(random_ints(64, 32)), cpu.IntegerQuantizedLinear)
]


def rounded_once(weight: GroupQuantized) -> torch.Tensor:
    offsets = None if weight.offsets_OG is None else weight.offsets_OG.double()
    return replace(weight, factors_OG=weight.factors_OG.double(), offsets_OG=offsets).dense().float().bfloat16()


def product(kind: str, weight: GroupQuantized, x: torch.Tensor) -> torch.Tensor:
    """In float64, of what a kind rounds."""
    if kind in BY_TILES:
        return x.double() @ rounded_once(weight).double().T
    rounded = fake_quantize(x) if kind in INT8 else fixed_point(x) if kind in BY_INT16 else x
    return rounded.double() @ weight.dense().double().T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "bits, least, offsets, group",
    [
        (4, 0, True, 32),
        (4, -8, False, 32),
        (4, -8, True, 64),
        (4, 0, False, 128),
        (8, -128, False, 32),
        (8, -128, True, 64),
    ],
)
@pytest.mark.parametrize("shape", [(1, 128, 48), (2, 256, 130), (5, 384, 64), (17, 128, 65), (130, 128, 66)])
@pytest.mark.parametrize("scales", [torch.float32, torch.float16])
def test_agrees_with_float64(scales, kind, shape, bits, least, offsets, group):
    num_rows, num_in, num_out = shape
    weight, x = random_ints(num_out, num_in, least, offsets, group, bits), torch.randn(num_rows, num_in)
    weight = weight.with_scales(scales)
    bias = torch.randn(num_out) if offsets else None
    x = x.bfloat16()
    expected = product(kind, weight, x) + (0 if bias is None else bias.double())
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        out = KINDS[kind](weight, bias, dtype)(x)
        assert out.dtype == dtype
        assert (out.double() - expected).norm() / expected.norm() < bound


@pytest.mark.parametrize("kind", BY_TILES)
@pytest.mark.parametrize("bits, least", [(4, 0), (4, -8), (8, -128)])
@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("shape", [(1, 96, 48), (16, 256, 130), (49, 160, 64), (300, 96, 257)])
def test_by_tiles_a_product_is_that_of_the_dequantized_weight(kind, shape, offsets, bits, least):
    num_rows, num_in, num_out = shape
    weight, x = random_ints(num_out, num_in, least, offsets, bits=bits), torch.randn(num_rows, num_in).bfloat16()
    # factors as in files: with 11 bits no product with an integer is rounded
    weight = replace(weight, factors_OG=weight.factors_OG.half().float())
    bias = torch.randn(num_out)
    dense = linear_cpu.build(COMPILERS[kind])(weight.dense().bfloat16(), bias, torch.float32)
    assert torch.equal(COMPILED[kind](weight, bias, torch.float32)(x), dense(x))


SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 32, 48, 49, 64, 96, 97)
FEW_SIZES = (1, 3, 6, 13)  # where a multiplication takes 10 ns and more


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("bits, least", [(4, 0), (8, -128)])
@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("shape", [(576, 960), (1536, 576), (64, 257)])
def test_a_row_alone_equals_the_row_in_a_batch(kind, shape, offsets, bits, least):
    is_emulated = kind.removesuffix(", int8") in EMULATED
    num_out = min(shape[1], 66) if is_emulated else shape[1]
    linear = COMPILED[kind](random_ints(num_out, shape[0], least, offsets, bits=bits))
    x = torch.randn(130, shape[0]).bfloat16()
    whole = linear(x)
    for size in FEW_SIZES if is_emulated else SIZES:
        assert torch.equal(linear(x[:size]), whole[:size]), size


@pytest.mark.parametrize("kind", COMPILED)
def test_threads_do_not_change_a_sum(kind):
    linear, x = COMPILED[kind](random_ints(300, 96)), torch.randn(9, 96).bfloat16()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = linear(x)
        torch.set_num_threads(3)
        assert torch.equal(linear(x), alone)
    finally:
        torch.set_num_threads(threads)


def test_rows_columns_and_stacks_are_those_of_the_dense_matrix():
    weight = random_ints(12, 256, group=64)
    dense = weight.dense()
    order = torch.tensor([3, 0, 11])
    assert torch.equal(weight.rows(order).dense(), dense[order])
    assert torch.equal(weight.columns(64, 192).dense(), dense[:, 64:192])
    assert weight.columns(32, 128) is None  # would cut a group
    assert torch.equal(GroupQuantized.stack([weight, weight.rows(order)]).dense(), torch.cat([dense, dense[order]]))


@pytest.mark.parametrize("family", [list(INT8), BY_INT16], ids=["int8", "int16"])
def test_integer_products_give_the_same_bits_with_all_instruction_sets(family):
    kinds = [kind for kind in COMPILED if kind in family]
    if not kinds:
        pytest.skip("needs a C compiler and AVX2")
    for bits, least, offsets in ((4, 0, True), (4, -8, False), (8, -128, False)):
        weight, x = random_ints(130, 256, least, offsets, bits=bits), torch.randn(17, 256).bfloat16()
        x[3, 32:64] = 0
        results = [COMPILED[kind](weight, None, torch.float32)(x) for kind in kinds]
        assert all(torch.equal(one, results[0]) for one in results)


def test_inputs_in_fixed_point_are_exact_to_a_hundredth_of_the_largest_one():
    """What is smaller is off by less than a 128th of what bfloat16 rounds the largest one by."""
    x = (torch.randn(50, 96) * 10.0 ** torch.randint(-6, 3, (50, 96))).bfloat16()
    x[0, :32] = 0
    largest = x.float().view(50, 3, 32).abs().amax(-1, keepdim=True).expand(-1, -1, 32).reshape(50, 96)
    error = (fixed_point(x) - x.float()).abs()
    assert (error[x.float().abs() > largest / 127] == 0).all()
    assert (error <= largest * 2**-15).all() and error.max() > 0


@pytest.mark.parametrize("kind", BY_INT16)
@pytest.mark.parametrize("x", [float("inf"), float("nan"), 3e38, 1e-38, 0.0])
def test_integer_products_of_what_no_integer_stands_for(kind, x):
    """Infinities and NaN do not get lost, the largest numbers are no infinities, and the smallest are 0."""
    inputs = torch.full((1, 64), 1e-3).bfloat16()
    inputs[0, 5] = x
    out = COMPILED[kind](random_ints(64, 64, -8, offsets=False), None, torch.float32)(inputs)
    assert bool(out.isfinite().all()) == (abs(x) < 1e39)


@pytest.mark.parametrize("kind", [kind for kind in COMPILED if kind in (*INT8, *BY_INT16)])
def test_the_largest_products_of_integers_do_not_overflow(kind):
    """All inputs and all integers as large as they can be, with both signs."""
    for bits, least in ((4, 0), (4, -8), (8, -128)):
        most = least + (1 << bits) - 1
        for int_, sign in ((least, 1), (least, -1), (most, 1), (most, -1)):
            ints = torch.full((64, 64), int_, dtype=torch.int8)
            weight = GroupQuantized(ints, torch.ones(64, 2), None, least, bits)
            out = COMPILED[kind](weight, None, torch.float32)(torch.full((1, 64), 3.0 * sign).bfloat16())
            assert out.flatten().tolist() == pytest.approx([int_ * sign * 3.0 * 64] * 64, rel=1e-6)


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_in_fp16_give_the_bits_of_the_same_scales_in_fp32(kind, bits):
    """Subnormal ones too, as files have them for small weights."""
    weight = random_ints(130, 128, bits=bits, least=0 if bits == 4 else -128)
    weight = replace(weight, factors_OG=weight.factors_OG * 10.0 ** torch.randint(-6, 1, weight.factors_OG.shape))
    half = weight.with_scales(torch.float16)
    x = torch.randn(9, 128).bfloat16()
    for rows in (1, 4, 9):
        outs = [COMPILED[kind](one)(x[:rows]) for one in (half, half.with_scales(torch.float32))]
        assert torch.equal(*outs)


def test_parts_with_scales_of_two_dtypes_are_stacked_in_fp32():
    wide, half = random_ints(3, 64), random_ints(2, 64).with_scales(torch.float16)
    stacked = GroupQuantized.stack([wide, half])
    assert stacked.factors_OG.dtype == stacked.offsets_OG.dtype == torch.float32
    assert torch.equal(stacked.dense(), torch.cat([wide.dense(), half.dense()]))
