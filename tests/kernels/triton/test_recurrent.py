"""The Triton kernels of recurrent layers, in the interpreter, against the plain recurrence."""

import pytest
import torch

from kernels.causal_conv.layout import StateLayout
from kernels.causal_conv.triton import causal_conv
from kernels.gated_delta_rule.triton import gated_delta_rule
from kernels.selective_scan.triton import selective_scan
from tests.kernels.test_recurrent import ChannelDelta, Conv, Delta, Scan, error

CASES = [(Conv, causal_conv), (Delta, gated_delta_rule), (ChannelDelta, gated_delta_rule), (Scan, selective_scan)]


@pytest.mark.parametrize(("case", "kernel"), CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_it_is_the_recurrence_of_each_sequence(case, kernel, dtype, bound):
    inputs = case(dtype)
    assert error(inputs.run(kernel, 100), inputs.expected()) < bound


@pytest.mark.parametrize(("case", "kernel"), CASES)
@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_chunks_change_no_bit(case, kernel, chunk):
    inputs = case(torch.float32)
    assert torch.equal(inputs.run(kernel, chunk), inputs.run(kernel, 100))


def test_rows_of_nobody_are_zero_and_touch_no_state():
    layout = StateLayout(torch.tensor([0, 1], dtype=torch.int32), torch.ones(1, dtype=torch.int32), torch.tensor([3]))
    one = Conv(torch.float32)
    state = torch.full((7, 3, one.x.shape[1]), 7.0)
    out = causal_conv(one.x[:4], state, one.weight, one.bias, layout, False)
    assert not out[1:].any() and (state[[0, 1, 2, 4, 5, 6]] == 7).all()
