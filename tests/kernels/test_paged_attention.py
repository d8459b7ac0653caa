import pytest
import torch

from kernels.native.compiler import find_compiler
from kernels.paged_attention import cpu
from kernels.paged_attention.reference import paged_attention
from kernels.qkv_rotary import cpu as qkv_rotary_cpu
from kernels.write_kv.reference import write_kv
from tests.kernels.cpus import COMPILERS
from tests.kernels.paged import RULES, make, make_rules, written_by

# (keys per sequence, queries per sequence)
BATCHES = {
    "one token": ([1], [1]),
    "around a block": ([15, 16, 17], [1, 1, 1]),
    "decodes": ([5, 40, 1, 33], [1, 1, 1, 1]),
    "a whole prompt": ([37], [37]),
    "a chunk": ([50], [7]),
    "mixed": ([20, 33, 16, 48, 9], [1, 5, 16, 1, 9]),
    "a sequence without queries": ([20, 5, 18], [2, 0, 1]),
}


def error(out, expected):
    assert not out.isnan().any()
    return ((out.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("window", [0, 1, 12, 100, -1, -12])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_row_attends_to_its_own_past(batch, window):
    paged = make(write_kv, *BATCHES[batch])
    assert error(paged.attend(paged_attention, window), paged.expected(window)) < 1e-5


@pytest.mark.parametrize("window", [0, 12, -12])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", BATCHES)
def test_scores_may_have_a_cap_and_company(batch, rule, window):
    paged, rules = make(write_kv, *BATCHES[batch]), make_rules(rule, 9)
    assert error(paged.attend(paged_attention, window, **rules), paged.expected(window, **rules)) < 1e-5
    logarithms = paged.logarithms(paged_attention, window, **rules)
    assert error(logarithms, paged.expected_logarithms(window, **rules)) < 1e-5


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("rule", ["", *RULES])
@pytest.mark.parametrize("batch", BATCHES)
def test_keys_and_values_may_lie_in_float8_with_scales(batch, rule, dtype, bound):
    paged = make(write_kv, *BATCHES[batch], dtype=dtype, cache_dtype=torch.float8_e4m3fn)
    rules = make_rules(rule, 9)
    assert error(paged.attend(paged_attention, **rules), paged.expected(**rules)) < bound
    del paged.scales["v_scale_G"]
    assert error(paged.attend(paged_attention, **rules), paged.expected(**rules)) > 0.1


def test_scores_far_apart_leave_no_holes():
    """Of products in the hundreds a cap leaves two scores; a sink may be far above or far below all others."""
    paged = make(write_kv, *BATCHES["mixed"])
    paged.queries *= 100
    assert error(paged.attend(paged_attention, soft_cap=2.0), paged.expected(soft_cap=2.0)) < 1e-5
    paged.queries /= 100
    far = torch.tensor([-300.0, 90.0, -torch.inf] * 3)
    out = paged.attend(paged_attention, sinks_H=far)
    assert error(out[:, far < 0], paged.expected()[:, far < 0]) < 1e-5
    assert out[:, far > 0].abs().max() < 1e-20


@pytest.mark.parametrize("heads", [(4, 4), (4, 1), (8, 2)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_heads_share_their_group_in_every_dtype(heads, dtype, bound):
    paged = make(write_kv, *BATCHES["mixed"], heads=heads, block_size=8, dtype=dtype)
    assert error(paged.attend(paged_attention), paged.expected()) < bound


def test_padding_rows_come_back_as_zero():
    paged = make(write_kv, *BATCHES["mixed"])
    alone = paged.attend(paged_attention)
    paged.queries = torch.cat((paged.queries, torch.full_like(paged.queries[:3], torch.nan)))
    padded = paged.attend(paged_attention)
    assert torch.equal(padded[:-3], alone)
    assert (padded[-3:] == 0).all()
    assert (paged.logarithms(paged_attention)[-3:] == -torch.inf).all()


# -- the compiled kernel, on blocks that its own writer laid out

COMPILER = find_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
LONG = ([300, 129, 128, 127, 17, 200], [150, 1, 64, 1, 17, 3])


@pytest.fixture(scope="module", params=[name for name in COMPILERS if name != "neon_dotprod"])
def compiled(request):  # neon_dotprod attends as neon does
    compiler = COMPILERS[request.param]
    return written_by(qkv_rotary_cpu.build(compiler)), cpu.build(compiler)


@needs_compiler
@pytest.mark.parametrize("window", [0, 1, 12, 100, -1, -12])
@pytest.mark.parametrize("block_size", [16, 32, 8, 2])
@pytest.mark.parametrize("batch", BATCHES)
def test_compiled_rows_attend_to_their_own_past(compiled, batch, block_size, window):
    write, attention = compiled
    paged = make(write, *BATCHES[batch], block_size=block_size, dtype=torch.bfloat16)
    assert error(paged.attend(attention, window), paged.expected(window)) < 1e-2


@needs_compiler
@pytest.mark.parametrize("window", [0, 12, -12])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", BATCHES)
def test_compiled_scores_may_have_a_cap_and_company(compiled, batch, rule, window):
    write, attention = compiled
    paged, rules = make(write, *BATCHES[batch], dtype=torch.bfloat16), make_rules(rule, 9)
    assert error(paged.attend(attention, window, **rules), paged.expected(window, **rules)) < 1e-2
    expected = paged.expected_logarithms(window, **rules)
    assert (paged.logarithms(attention, window, **rules) - expected).abs().max() < 4e-3  # of rounded weights


@needs_compiler
def test_compiled_scores_far_apart_leave_no_holes(compiled):
    write, attention = compiled
    paged = make(write, *BATCHES["mixed"], dtype=torch.bfloat16)
    paged.queries *= 128
    assert error(paged.attend(attention, soft_cap=2.0), paged.expected(soft_cap=2.0)) < 1e-2
    paged.queries /= 128
    far = torch.tensor([-300.0, 90.0, -torch.inf] * 3)
    out = paged.attend(attention, sinks_H=far)
    assert error(out[:, far < 0], paged.expected()[:, far < 0]) < 1e-2
    assert out[:, far > 0].abs().max() < 1e-20


@needs_compiler
@pytest.mark.parametrize("heads", [(4, 4), (8, 1), (16, 1), (7, 1), (32, 1), (12, 2)])
def test_compiled_heads_share_their_group(compiled, heads):
    write, attention = compiled
    paged = make(write, *LONG, heads=heads, dtype=torch.bfloat16)
    assert error(paged.attend(attention), paged.expected()) < 1e-2


@needs_compiler
@pytest.mark.parametrize("head_dim", [16, 80, 128, 10])
def test_compiled_heads_may_have_any_even_size(compiled, head_dim, monkeypatch):
    monkeypatch.setattr("tests.kernels.paged.HEAD_DIM", head_dim)
    write, attention = compiled
    paged = make(write, *BATCHES["mixed"], dtype=torch.bfloat16)
    assert error(paged.attend(attention), paged.expected()) < 1e-2


@needs_compiler
@pytest.mark.parametrize("rule", ["", RULES[-1]])
@pytest.mark.parametrize("window", [0, 50, -50])
@pytest.mark.parametrize("block_size", [16, 8])
def test_a_compiled_row_does_not_depend_on_its_batch_chunk_or_threads(compiled, block_size, window, rule):
    write, attention = compiled
    paged, rules = make(write, *LONG, block_size=block_size, dtype=torch.bfloat16), make_rules(rule, 9)
    whole = paged.attend(attention, window, **rules)
    starts, lens, table, queries = paged.query_starts, paged.seq_lens, paged.block_table, paged.queries
    for s, count in enumerate(LONG[1]):
        for at in {0, count // 2, count - 1}:  # this query alone, when the later ones are not there yet
            paged.query_starts = torch.tensor([0, 1], dtype=torch.int32)
            paged.seq_lens = (lens[s] - count + at + 1).reshape(1)
            paged.block_table, row = table[s, None].contiguous(), starts[s] + at
            paged.queries = queries[row, None]
            assert torch.equal(paged.attend(attention, window, **rules)[0], whole[row])


@needs_compiler
def test_compiled_padding_rows_come_back_as_zero(compiled):
    write, attention = compiled
    paged = make(write, *BATCHES["mixed"], dtype=torch.bfloat16)
    alone = paged.attend(attention)
    paged.queries = torch.cat((paged.queries, torch.full_like(paged.queries[:3], torch.nan)))
    padded = paged.attend(attention)
    assert torch.equal(padded[:-3], alone)
    assert (padded[-3:] == 0).all()
    assert (paged.logarithms(attention)[-3:] == -torch.inf).all()
