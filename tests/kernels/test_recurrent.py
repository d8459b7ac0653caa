"""Recurrent kernels: against the plain recurrence in float64, in any chunks, with states in shuffled slots."""

import pytest
import torch

from kernels.causal_conv import cpu as conv_cpu
from kernels.causal_conv.layout import StateLayout
from kernels.causal_conv.reference import causal_conv
from kernels.gated_delta_rule import cpu as delta_cpu
from kernels.gated_delta_rule.gates import DeltaGates
from kernels.gated_delta_rule.reference import gated_delta_rule
from kernels.selective_scan import cpu as scan_cpu
from kernels.selective_scan.gates import ScanGates
from kernels.selective_scan.reference import selective_scan
from tests.kernels.cpus import COMPILERS

NUM_SLOTS = 7
LENS = [5, 1, 0, 23, 2]  # of sequences; slots are not in their order
SLOTS = [4, 0, 6, 2, 5]


def layout_of(starts, ends):
    """Rows [start, end) of each sequence."""
    counts = [end - start for start, end in zip(starts, ends, strict=True)]
    rows = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32)
    return StateLayout(rows, torch.tensor(ends, dtype=torch.int32), torch.tensor(SLOTS))


def pieces(chunk):
    """The steps of all sequences in chunks: (layout, rows of the whole)."""
    first = torch.tensor([0, *LENS]).cumsum(0).tolist()
    for start in range(0, max(LENS), chunk):
        starts, ends = ([min(length, at) for length in LENS] for at in (start, start + chunk))
        rows = [first[s] + t for s in range(len(LENS)) for t in range(starts[s], ends[s])]
        yield layout_of(starts, ends), torch.tensor(rows)


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module", params=["reference", *COMPILERS])
def kernels(request):
    """(the kernel of each case, dtype, bound)"""
    if request.param == "reference":
        made = {Conv: causal_conv, Delta: gated_delta_rule, ChannelDelta: gated_delta_rule, Scan: selective_scan}
        return made, torch.float32, 1e-5
    compiler = COMPILERS[request.param]
    built = {Conv: conv_cpu, Delta: delta_cpu, Scan: scan_cpu}
    made = {case: module.build(compiler) for case, module in built.items()}
    return made | {ChannelDelta: made[Delta]}, torch.bfloat16, 1e-2


class Conv:
    def __init__(self, dtype, channels=300, taps=4):
        rng = torch.Generator().manual_seed(1)
        self.x = torch.randn(sum(LENS), 2 * channels, generator=rng).to(dtype)[:, :channels]
        self.weight, self.bias = torch.randn(channels, taps, generator=rng), torch.randn(channels, generator=rng)

    def run(self, kernel, chunk, with_silu=True):
        state = torch.full((NUM_SLOTS, self.weight.shape[1] - 1, self.x.shape[1]), torch.nan, dtype=self.x.dtype)
        out = torch.full(self.x.shape, torch.nan, dtype=self.x.dtype)
        for layout, rows in pieces(chunk):
            out[rows] = kernel(self.x[rows], state, self.weight, self.bias, layout, with_silu)
        return out

    def expected(self):
        out, first = [], 0
        for length in LENS:
            x = torch.cat((torch.zeros(3, self.x.shape[1]), self.x[first : first + length].float())).double()
            for t in range(length):
                made = (x[t : t + 4] * self.weight.T.double()).sum(0) + self.bias.double()
                out.append(made / (1 + (-made).exp()))
            first += length
        return torch.stack(out)


class Scan:
    def __init__(self, dtype, groups=2, heads=6, head_dim=12, state_dim=20):
        rng = torch.Generator().manual_seed(3)

        def random(*shape):
            return torch.randn(sum(LENS), *shape, generator=rng)

        self.x = random(heads, head_dim).to(dtype)
        self.b, self.c = random(groups, state_dim).to(dtype), random(groups, state_dim).to(dtype)
        self.decay, self.step, self.skip = random(heads).sigmoid(), random(heads).sigmoid(), torch.randn(heads)

    def run(self, kernel, chunk):
        state = torch.full((NUM_SLOTS, self.x.shape[1], self.x.shape[2], self.b.shape[2]), torch.nan)
        out = torch.full(self.x.shape, torch.nan, dtype=self.x.dtype)
        for layout, rows in pieces(chunk):
            gates = ScanGates(self.decay[rows], self.step[rows], self.skip)
            out[rows] = kernel(self.x[rows], self.b[rows], self.c[rows], gates, state, layout)
        return out

    def expected(self):
        out, first = torch.zeros(self.x.shape, dtype=torch.float64), 0
        repeat = self.x.shape[1] // self.b.shape[1]
        for length in LENS:
            for h in range(self.x.shape[1]):
                memory = torch.zeros(self.x.shape[2], self.b.shape[2], dtype=torch.float64)
                for t in range(first, first + length):
                    x, b, c = self.x[t, h].double(), self.b[t, h // repeat].double(), self.c[t, h // repeat].double()
                    memory = memory * self.decay[t, h].double() + torch.outer(self.step[t, h].double() * x, b)
                    out[t, h] = memory @ c + self.skip[h].double() * x
            first += length
        return out


class Delta:
    """Each head has a decay."""

    num_decays = 1

    def __init__(self, dtype, groups=2, heads=6, k_dim=12, v_dim=20):
        rng = torch.Generator().manual_seed(2)

        def random(*shape):
            return torch.randn(sum(LENS), *shape, generator=rng)

        self.q, self.k = random(groups, k_dim).to(dtype), random(groups, k_dim).to(dtype)
        self.v = random(heads, v_dim).to(dtype)
        self.decay, self.beta = random(heads, self.num_decays).sigmoid(), random(heads).sigmoid()

    def run(self, kernel, chunk):
        state = torch.full((NUM_SLOTS, self.v.shape[1], self.q.shape[2], self.v.shape[2]), torch.nan)
        out = torch.full(self.v.shape, torch.nan, dtype=self.v.dtype)
        for layout, rows in pieces(chunk):
            gates = DeltaGates(self.decay[rows], self.beta[rows])
            out[rows] = kernel(self.q[rows], self.k[rows], self.v[rows], gates, state, layout)
        return out

    def expected(self):
        out, first = torch.zeros(self.v.shape, dtype=torch.float64), 0
        repeat = self.v.shape[1] // self.q.shape[1]
        for length in LENS:
            for h in range(self.v.shape[1]):
                memory = torch.zeros(self.q.shape[2], self.v.shape[2], dtype=torch.float64)
                for t in range(first, first + length):
                    q, k = (x[t, h // repeat].double() for x in (self.q, self.k))
                    q, k = q / q.norm() / len(q) ** 0.5, k / k.norm()
                    memory = memory * self.decay[t, h, :, None].double()
                    change = self.beta[t, h].double() * (self.v[t, h].double() - k @ memory)
                    memory = memory + torch.outer(k, change)
                    out[t, h] = q @ memory
            first += length
        return out


class ChannelDelta(Delta):
    """Each key channel of a head has a decay."""

    num_decays = 12

    def __init__(self, dtype):
        super().__init__(dtype, groups=2, heads=2)


@pytest.mark.parametrize("case", [Conv, Delta, ChannelDelta, Scan])
def test_it_is_the_recurrence_of_each_sequence(kernels, case):
    made, dtype, bound = kernels
    inputs = case(dtype)
    assert error(inputs.run(made[case], 100), inputs.expected()) < bound


@pytest.mark.parametrize("case", [Conv, Delta, ChannelDelta, Scan])
@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_chunks_change_no_bit(kernels, case, chunk):
    made, dtype, _ = kernels
    inputs, kernel = case(dtype), made[case]
    out, whole = inputs.run(kernel, chunk), inputs.run(kernel, 100)
    # torch's own sigmoid rounds by where a number stands in its tensor
    assert torch.allclose(out, whole, rtol=1e-6) if kernel is causal_conv else torch.equal(out, whole)


def test_rows_of_nobody_are_zero_and_touch_no_state(kernels):
    made, dtype, _ = kernels
    layout = StateLayout(torch.tensor([0, 1], dtype=torch.int32), torch.ones(1, dtype=torch.int32), torch.tensor([3]))
    one = Conv(dtype)
    state = torch.full((NUM_SLOTS, 3, one.x.shape[1]), 7.0, dtype=dtype)
    out = made[Conv](one.x[:4], state, one.weight, one.bias, layout, False)
    assert not out[1:].any() and (state[[0, 1, 2, 4, 5, 6]] == 7).all()
    two = Delta(dtype)
    memory = torch.full((NUM_SLOTS, 6, 12, 20), 7.0)
    gates = DeltaGates(two.decay[:4], two.beta[:4])
    out = made[Delta](two.q[:4], two.k[:4], two.v[:4], gates, memory, layout)
    assert not out[1:].any() and (memory[[0, 1, 2, 4, 5, 6]] == 7).all()
