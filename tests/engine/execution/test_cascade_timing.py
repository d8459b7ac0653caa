import math

import pytest
import torch

from engine.device.cuda_capture import CaptureError
from engine.execution.cascade_timing import ROWS, TOKENS, AttentionTimer, measure_cascade_thresholds
from engine.model.cascade import CascadeThresholds
from kernels.kernel_set import load_kernels
from scripts.bench.gpu.random_model import TINY, RandomModel


@pytest.mark.parametrize("overhead", [0.0, 3e3, 2e4, 1e5, math.inf])
def test_a_group_is_worth_it_exactly_where_it_was_faster(overhead):
    """A row takes as long as its tokens, a group as its tokens and what it takes to put parts together."""

    def times(rows, tokens):
        return rows * tokens, tokens + overhead

    thresholds = measure_cascade_thresholds(times)
    assert [rows for rows, _ in thresholds.steps] == sorted({rows for rows, _ in thresholds.steps})
    for rows in ROWS:
        for tokens in TOKENS:
            apart, together = times(rows, tokens)
            reached = any(rows >= least_rows and tokens >= least for least_rows, least in thresholds.steps)
            assert reached == (together < 0.97 * apart), (rows, tokens)


def test_few_of_the_cases_are_measured():
    asked = []

    def times(rows, tokens):
        asked.append((rows, tokens))
        return rows * tokens, tokens + 6000

    assert measure_cascade_thresholds(times) == CascadeThresholds(((4, 4096), (8, 1024), (16, 512), (32, 256)))
    assert len(asked) <= 13


def test_what_there_is_no_room_for_is_not_measured():
    assert (
        measure_cascade_thresholds(lambda rows, tokens: (2.0, 1.0) if rows <= 8 and tokens > 9999 else None).steps == ()
    )


def test_ranks_go_by_what_one_of_them_found():
    def never(rows, tokens):
        return 1.0, 2.0

    assert measure_cascade_thresholds(never, lambda wins: True).steps == ((4, 256),)
    assert measure_cascade_thresholds(lambda rows, tokens: (2.0, 1.0), lambda wins: False).steps == ()


def test_both_ways_are_timed_on_blocks_of_their_own():
    model = RandomModel(TINY, load_kernels(torch.device("meta"), torch.float32), 64, torch.float32, torch.device("cpu"))
    seen = []
    decoder, attend = model.decoder, model.decoder.attend

    def look(batch, kv):
        seen.append(batch)
        return attend(batch, kv)

    decoder.attend = look
    timer = AttentionTimer(decoder, model.kv, 512, 4, model.device, lambda run: run)
    apart, together = timer(4, 256)
    assert apart > 0 and together > 0
    assert seen[0].prefixes is None
    assert seen[-1].prefixes.shared_lens_S.tolist() == [256] * 4
    (slots_T,), (table_SW,) = seen[0].slots_KT, seen[0].block_tables_KSW
    assert len(set(slots_T.tolist())) == 4
    assert table_SW[:, :16].unique(dim=0).shape == (1, 16)
    own = table_SW[:, 16 : -(-int(seen[0].seq_lens_S[0]) // 16)]
    assert own.unique().numel() == own.numel() and own.min() == 16
    assert timer(5, 256) is None, "more rows than ever run"
    assert timer(4, 512) is None, "longer than a context"
    assert timer(2, 1024) is None


def test_what_cannot_be_recorded_is_timed_all_the_same():
    model = RandomModel(TINY, load_kernels(torch.device("meta"), torch.float32), 64, torch.float32, torch.device("cpu"))

    def capture(run):
        raise CaptureError("operation not permitted when stream is capturing")

    timer = AttentionTimer(model.decoder, model.kv, 512, 8, torch.device("cpu"), capture)
    apart, together = timer(4, 256)
    assert apart > 0 and together > 0
