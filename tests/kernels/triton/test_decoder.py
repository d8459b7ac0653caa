import pytest
import torch
from torch.nn.functional import pad

from engine.execution.cuda_graphs import CudaGraphs, LargestStep
from engine.model.block_tables import BlockTables
from engine.model.cascade import CascadeThresholds, group_by_prefix
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from kernels.kernel_set import load_kernels, triton_kernels
from scripts.bench.gpu.random_model import TINY, RandomModel
from tests.engine.checkpoint.test_quantized_weights import FORMS, write
from tests.engine.model.tiny import Runner, error, oracle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models():
    references = load_kernels(torch.device("meta"), torch.float32)
    assert references.name == "reference"
    return [RandomModel(TINY, kernels, 12, torch.float32, CPU) for kernels in (triton_kernels(), references)]


def batch_of(scheduled, *thresholds):
    tables = BlockTables.of(scheduled, 16)
    groups = group_by_prefix(scheduled.sequences, tables, CascadeThresholds(thresholds))
    return ForwardBatch.from_scheduled(scheduled, tables, CPU, groups)


def test_a_model_of_triton_kernels_gives_the_references_logits(models):
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(300, (50,), generator=rng).tolist()
    blocks = [(3, 1, 7), (2, 9), (11, 0, 4, 5)]
    plans = [
        [
            ScheduledSequence(0, 0, tuple(tokens[:40]), (blocks[0],), True),
            ScheduledSequence(1, 0, tuple(tokens[5:10]), (blocks[1],), True),
        ],
        [
            ScheduledSequence(0, 40, tuple(tokens[:1]), (blocks[0],), True),
            ScheduledSequence(1, 5, tuple(tokens[:1]), (blocks[1],), True),
            ScheduledSequence(2, 0, tuple(tokens), (blocks[2],), True),
        ],
        [ScheduledSequence(s, at, (7,), (blocks[s],), True) for s, at in enumerate((41, 6, 50))],
    ]
    for step, sequences in enumerate(plans):
        batch = batch_of(SchedulerOutput(step, tuple(sequences)))
        ours, theirs = (model.decoder.forward(batch, model.kv) for model in models)
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_model_of_4_bits_gives_the_references_logits(deterministic, tmp_path):
    write(oracle("llama whole groups"), tmp_path, *FORMS["awq"])
    tokens = list(range(20))
    ours = Runner(tmp_path, torch.float32, 16, triton_kernels(deterministic))
    theirs = Runner(tmp_path, torch.float32, 16, load_kernels(torch.device("meta"), torch.float32), keeps_ints=False)
    assert error(ours.logits(tokens, 7), theirs.logits(tokens, 7)) < 1e-5


def test_a_prefix_that_is_read_once_changes_no_logits_beyond_rounding(models):
    ours = models[0]
    blocks = [(3, 1, 7), (3, 1, 9), (3, 1, 0)]
    start = [
        ScheduledSequence(s, 32 if s else 0, tuple(range(9 if s else 37)), (owned,), True)
        for s, owned in enumerate(blocks)
    ]
    for piece in start:
        ours.decoder.forward(batch_of(SchedulerOutput(0, (piece,))), ours.kv)
    sequences = [ScheduledSequence(s, 41 if s else 37, (s,), (owned,), True) for s, owned in enumerate(blocks)]
    plan = SchedulerOutput(1, tuple(sequences))
    plain = batch_of(plan)
    grouped = batch_of(plan, (2, 32))
    assert plain.prefixes is None and grouped.prefixes.shared_lens_S.tolist() == [32, 32, 32]
    alone, together = (ours.decoder.forward(batch, ours.kv) for batch in (plain, grouped))
    assert 0 < ((together - alone).norm() / alone.norm()).item() < 1e-5


def test_a_replayed_step_reads_prefixes_once_too(models):
    """Two groups where there is room for four, a row of no group, and one with a guess behind it."""
    ours = models[0]
    blocks = [(3, 1), (3, 7), (3, 9), (0, 2), (0, 4), (5, 6), (8, 10)]
    for s, owned in enumerate(blocks):
        prompt = ScheduledSequence(s, 0, tuple(range(owned[0], owned[0] + 20 + s)), (owned,), True)
        ours.decoder.forward(batch_of(SchedulerOutput(0, (prompt,))), ours.kv)
    sequences = [ScheduledSequence(s, 20 + s, (s,), (owned,), True) for s, owned in enumerate(blocks)]
    sequences.insert(
        1, ScheduledSequence(7, 26, (6, 9), ((8, 10),), True, num_draft_tokens=1)
    )  # as its last one, one token further
    plan, seen = SchedulerOutput(1, tuple(sequences)), []

    def hidden(batch):
        seen.append(batch)
        return ours.decoder.hidden(batch, ours.kv)

    graphs = CudaGraphs(hidden, lambda run: run, LargestStep(16, 4), block_size=16, device=CPU)
    tables = BlockTables.of(plan, 16)
    groups = group_by_prefix(sequences, tables, CascadeThresholds(((2, 16),)))
    assert [group.rows for group in groups] == [(0, 2, 3), (4, 5)]
    together = ours.decoder.logits(graphs.hidden(plan, tables, groups))
    assert seen[0].prefixes.group_starts.tolist() == [0, 3, 5, 5, 5]
    assert seen[0].prefixes.members.tolist()[:5] == [0, 3, 4, 5, 6], "the guess is a row too"
    alone = ours.decoder.forward(batch_of(plan), ours.kv)
    assert 0 < ((together - alone).norm() / alone.norm()).item() < 1e-5
    graphs.hidden(plan, tables)
    assert seen[-1].prefixes is None


def test_rows_and_sequences_of_padding_change_no_logits(models):
    """As a CUDA graph for four sequences would run two: fixed shapes, a table as wide as it ever gets."""
    ours = models[0]
    sequences = tuple(ScheduledSequence(s, 0, (s + 1,) * 5, ((s, 5 + s),), True) for s in range(2))
    ours.decoder.forward(batch_of(SchedulerOutput(0, sequences)), ours.kv)
    sequences = tuple(ScheduledSequence(s, 5, (9,), ((s, 5 + s),), True) for s in range(2))
    batch = batch_of(SchedulerOutput(1, sequences))
    alone = ours.decoder.forward(batch, ours.kv)
    padded = ForwardBatch(
        tokens_T=pad(batch.tokens_T, (0, 2)),
        positions_T=pad(batch.positions_T, (0, 2)),
        slots_KT=[pad(slots_T, (0, 2), value=-1) for slots_T in batch.slots_KT],
        query_starts=pad(batch.query_starts, (0, 2), value=2),
        seq_lens_S=pad(batch.seq_lens_S, (0, 2)),
        block_tables_KSW=[pad(table_SW, (0, 30, 0, 2), value=-1) for table_SW in batch.block_tables_KSW],
        sample_rows_R=torch.arange(4),
    )
    out = ours.decoder.forward(padded, ours.kv)
    assert not out.isnan().any()
    assert ((out[:2] - alone).norm() / alone.norm()).item() < 1e-6


def test_deterministic_kernels_give_the_same_logits_in_any_batch_and_chunks():
    model = RandomModel(TINY, triton_kernels(deterministic=True), 12, torch.float32, CPU)
    tokens = torch.randint(300, (36,), generator=torch.Generator().manual_seed(1)).tolist()
    blocks, others = (3, 1, 7), (2, 9)

    def step(*sequences):
        batch = batch_of(SchedulerOutput(0, sequences))
        return model.decoder.forward(batch, model.kv)

    def piece(seq, start, stop, where):
        return ScheduledSequence(seq, start, tuple(tokens[start:stop]), (where,), True)

    whole, decoded = step(piece(0, 0, 35, blocks)), step(piece(0, 35, 36, blocks))
    step(piece(1, 0, 5, others), piece(0, 0, 20, blocks))
    assert torch.equal(step(piece(0, 20, 35, blocks), piece(1, 5, 6, others))[:1], whole)
    assert torch.equal(step(piece(1, 6, 7, others), piece(0, 32, 36, blocks))[1:], decoded)
