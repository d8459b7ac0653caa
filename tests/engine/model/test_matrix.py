from dataclasses import replace

import pytest
import torch

from engine.checkpoint.matrix import cut, select_columns
from engine.checkpoint.shard import Shard
from engine.model.linears import linear_of
from kernels.kernel_set import load_kernels
from kernels.quantized_linear.reference import GroupQuantized, QuantizedLinear
from tests.kernels.test_quantized_linear import random_ints

KERNELS = replace(load_kernels(torch.device("meta"), torch.bfloat16), quantized_linear=QuantizedLinear)


def dense(matrix):
    return matrix.dense() if isinstance(matrix, GroupQuantized) else matrix.float()


@pytest.mark.parametrize(
    "part, stays", [(Shard(0, 5, 9), True), (Shard(1, 64, 128), True), (Shard(1, 16, 128), False), (None, True)]
)
def test_a_part_has_the_same_numbers_and_stays_integers_if_no_group_is_cut(part, stays):
    whole = random_ints(12, 128)
    found = cut(whole, part)
    expected = whole.dense() if part is None else whole.dense().narrow(part.dim, part.start, part.stop - part.start)
    assert torch.equal(dense(found), expected)
    assert isinstance(found, GroupQuantized) == stays


@pytest.mark.parametrize(("run", "stays"), [(64, True), (32, True), (16, False)])
def test_columns_selected_in_another_order_stay_integers_if_groups_stay_together(run, stays):
    whole = random_ints(12, 128)
    order = torch.arange(128).view(-1, run).flip(0).flatten()
    found = select_columns(whole, order)
    assert torch.equal(dense(found), whole.dense()[:, order])
    assert isinstance(found, GroupQuantized) == stays


@pytest.mark.parametrize("bias", [True, False])
def test_parts_of_several_kinds_are_one_linear(bias):
    parts = [
        random_ints(4, 128),
        random_ints(6, 128),
        random_ints(2, 128, least=-8, offsets=False),
        torch.randn(3, 128).bfloat16(),
        random_ints(5, 128, group=64),
    ]
    b = torch.randn(20).bfloat16() if bias else None
    x = torch.randn(7, 128).bfloat16()
    out = linear_of(KERNELS, parts, b)(x)
    expected = x.double() @ torch.cat([dense(part) for part in parts]).double().T + (b.double() if bias else 0)
    assert out.shape == (7, 20) and out.dtype == torch.bfloat16
    assert (out.double() - expected).norm() / expected.norm() < 1e-2
