"""What Triton compiles anew takes seconds, in the middle of serving: which launches are of the same code."""

import pytest
import torch

pytest.importorskip("triton")

from engine.decode_graphs import DecodeGraphs
from engine.plan import SeqSlice, StepPlan
from kernels.kernel_set import triton_kernels
from scripts.bench.gpu.random_model import BLOCK_SIZE, TINY, RandomModel
from tests.aot.no_card import launches

CPU = torch.device("cpu")


def test_graphs_of_all_sizes_and_widths_are_of_the_same_code():
    model = RandomModel(TINY, triton_kernels(), 8, torch.bfloat16, CPU)
    graphs = DecodeGraphs(
        lambda batch: model.decoder.hidden(batch, model.kv),
        lambda run: run,
        max_rows=40,
        max_blocks=2048,
        block_size=BLOCK_SIZE,
        device=CPU,
    )
    with launches() as found:
        known = None
        for num_rows in (40, 1, 2, 3, 8, 17):
            for num_blocks in (2048, 17, 60):
                piece = SeqSlice(0, 0, (1,), (0,) * num_blocks, True)
                graphs.hidden(StepPlan(0, (piece,) * num_rows))
                known = known or set(found)
    assert found == known


def test_any_number_of_log_probabilities_is_of_the_same_code():
    logits, chosen = torch.randn(2, 5000), torch.zeros(2, dtype=torch.int64)
    with launches() as found:
        for num_top in (0, 1, 5, 16, 20):
            triton_kernels().logprobs(logits, chosen, num_top)
    assert len(found) == 2
