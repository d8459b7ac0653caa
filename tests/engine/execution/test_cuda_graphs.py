"""Padded steps that are recorded once and replayed, against steps as they are. Without a GPU a replay runs the same
code on the same inputs again; what a graph does on a card, scripts/bench/gpu checks there."""

import random
from pathlib import Path

import pytest
import torch

from configs.schema import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.cache.cache_layout import CacheGroup, CacheLayout
from engine.cache.kv_cache import KVCache
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.source import resolve
from engine.device.cuda_capture import CaptureError, Run
from engine.engine import Engine
from engine.execution.cuda_graph_cache import MAX_GRAPHS
from engine.execution.cuda_graph_inputs import CudaGraphInputs, GraphShape
from engine.execution.cuda_graphs import CudaGraphs, LargestStep, UnpaddedGraphs
from engine.execution.inline_executor import InlineExecutor
from engine.execution.load import load_executor
from engine.execution.loaded_model import LoadedModel
from engine.model.block_tables import BlockTables
from engine.model.cascade import PrefixGroup
from engine.model.decoder import Decoder
from engine.model.forward_batch import ForwardBatch
from engine.sampling.sampler import Sampler
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from kernels.kernel_set import load_kernels
from tests.engine.model.tiny import oracle
from tests.engine.parallel.test_ranks import tiny

CPU = torch.device("cpu")
BLOCK_SIZE, NUM_BLOCKS, MAX_SEQUENCES, MAX_ROWS = 4, 64, 19, 50
NUM_STATES = 2 * MAX_SEQUENCES


class Recorder:
    """Counts what is recorded and what is replayed. `fails_from`: so many can be recorded, the others cannot."""

    def __init__(self, fails_from: int = 1000) -> None:
        self.fails_from = fails_from
        self.num_recorded = self.num_replayed = self.num_guessed = 0

    def look_at(self, batch: ForwardBatch) -> None:
        """Rows that have the same blocks as the one before them are guesses."""
        table, lens = batch.block_tables_KSW[0], batch.seq_lens_S
        self.num_guessed += int(((table[1:] == table[:-1]).all(-1) & (lens[1:] > 0)).sum())

    def __call__(self, run: Run) -> Run:
        if self.num_recorded == self.fails_from:
            raise CaptureError("operation not permitted when stream is capturing")
        self.num_recorded += 1
        run()  # as a card does, to compile kernels

        def replay() -> torch.Tensor:
            self.num_replayed += 1
            return run()

        return replay


def executor_of(source: Path, recorder: Recorder | None, dtype: torch.dtype, kernels: str = "fast") -> InlineExecutor:
    files = resolve(str(source))
    arch = read_arch(files)
    chosen = load_kernels(CPU, dtype) if kernels == "fast" else load_kernels(torch.device("meta"), dtype)
    decoder = Decoder(arch, open_weights(files, arch, dtype, CPU), chosen, 256)
    layout = CacheLayout.of(arch, BLOCK_SIZE, 256)
    num_groups = len(layout.groups)
    kv = KVCache(layout, NUM_BLOCKS * num_groups, dtype, CPU, NUM_STATES if arch.is_recurrent else 0)
    for cache in (one for layer in kv.layers for one in layer):
        cache.fill_(torch.nan)  # whatever is read without having been written is seen
    graphs = None
    if recorder is not None:

        def hidden(batch: ForwardBatch) -> torch.Tensor:
            recorder.look_at(batch)
            return decoder.hidden(batch, kv)

        graphs = CudaGraphs(
            hidden,
            recorder,
            LargestStep(MAX_ROWS, 64, arch.is_recurrent, num_groups),
            block_size=BLOCK_SIZE,
            device=CPU,
        )
        piece = ScheduledSequence(0, 0, (1,), ((5,),) * num_groups, True, state=5 if arch.is_recurrent else -1)
        scheduled = SchedulerOutput(0, (piece,) * 3)
        graphs.hidden(scheduled, BlockTables.of(scheduled, BLOCK_SIZE, layout.groups))
        caches = [cache for layer in kv.layers for cache in layer]
        rest = [cache[block] for cache in caches for block in range(len(cache)) if block != 5]
        assert all(block.isnan().all() for block in rest), "padding was written"
    loaded = LoadedModel(decoder, kv, chosen, 256, CPU)
    return InlineExecutor(loaded, Sampler(chosen, arch.vocab_size, CPU), graphs)


def answers(
    executor: InlineExecutor, overlap: bool = False, max_drafts: int = 0
) -> list[tuple[list[int], list[float]]]:
    """Tokens and log probabilities of a crowd that comes and goes."""
    config = SchedulerConfig(
        max_num_seqs=MAX_SEQUENCES, max_num_batched_tokens=60, num_speculative_tokens=max_drafts, prompt_lookup_min=1
    )
    executor.async_scheduling = overlap
    engine = Engine(executor, "tiny", EngineConfig(scheduler=config, cache=CacheConfig(enable_prefix_caching=False)))
    rng = random.Random(3)
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in range(24)]
    asked = 0
    while asked < len(found) or engine.has_work:
        for _ in range(rng.randint(0, 3) if asked < len(found) else 0):
            if asked == len(found):
                break
            prompt = tuple(rng.randrange(executor.vocab_size) for _ in range(rng.randint(1, 60)))
            sampling = SamplingParams(
                max_tokens=rng.randint(1, 40), temperature=asked % 2 * 0.5, num_logprobs=0, seed=7
            )
            engine.submit(
                GenerateRequest(request_id=str(asked), model="tiny", inputs=(TokenSpan(prompt),), sampling=sampling)
            )
            asked += 1
        for chunk in engine.step():
            tokens, logprobs = found[int(chunk.request_id)]
            tokens += chunk.tokens
            logprobs += [one.logprob for one in chunk.logprobs or ()]
        engine.check()
    return found


@pytest.mark.parametrize(("overlap", "max_drafts"), [(False, 0), (True, 0), (False, 3), (True, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_and_replayed_steps_give_the_same(
    tmp_path: Path, dtype: torch.dtype, overlap: bool, max_drafts: int
) -> None:
    source, recorder = tiny(tmp_path, "llama"), Recorder()
    plain = answers(executor_of(source, None, dtype))
    replayed = answers(executor_of(source, recorder, dtype), overlap, max_drafts)
    for (tokens, logprobs), (expected, expected_logprobs) in zip(replayed, plain, strict=True):
        assert tokens == expected
        assert logprobs == pytest.approx(expected_logprobs, abs=1e-5)
    assert recorder.num_replayed > 5 * recorder.num_recorded, "nearly every step was recorded anew"
    assert (recorder.num_guessed > 10) == (max_drafts > 0)


@pytest.mark.parametrize(("overlap", "max_drafts"), [(False, 0), (True, 0), (False, 3), (True, 3)])
@pytest.mark.parametrize("family", ["qwen3.5", "lfm2", "deepseek v3", "glm 5"])
def test_states_and_latents_are_replayed_too(tmp_path: Path, family: str, overlap: bool, max_drafts: int) -> None:
    oracle(family).save_pretrained(tmp_path)
    recorder = Recorder()
    plain = answers(executor_of(tmp_path, None, torch.float32))
    replayed = answers(executor_of(tmp_path, recorder, torch.float32), overlap, max_drafts)
    assert [tokens for tokens, _ in replayed] == [tokens for tokens, _ in plain]
    assert recorder.num_replayed > 5 * recorder.num_recorded or max_drafts


def test_steps_that_cannot_be_recorded_give_the_same(tmp_path: Path) -> None:
    source, recorder = tiny(tmp_path, "llama"), Recorder(fails_from=2)
    plain = answers(executor_of(source, None, torch.float32))
    found = answers(executor_of(source, recorder, torch.float32), overlap=True)
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in plain]
    assert recorder.num_recorded == 2 and recorder.num_replayed > 10


def test_a_closed_executor_holds_no_graph(tmp_path: Path) -> None:
    """NCCL waits for graphs with its calls, when its group is closed."""
    executor = executor_of(tiny(tmp_path, "llama"), Recorder(), torch.float32)
    graphs = executor._graphs
    assert graphs is not None and graphs.shapes
    executor.close()
    assert not graphs.shapes


def test_crowds_of_any_size_and_length_are_few_shapes() -> None:
    """Where a graph takes 24 MiB, those of the old table's ten widths took 8 GiB."""
    graphs = CudaGraphs(
        lambda batch: batch.tokens_T, lambda run: run, LargestStep(256, 8192), block_size=16, device=CPU
    )
    shapes = set()
    for num_rows in range(1, 257):
        for num_blocks in (1, 128, 129, 512, 513, 8192):
            for num_groups in {0, 1, 4, 5, 16, 64} if num_rows >= 128 else {0}:
                shapes.add(graphs.shape_of(num_rows, num_blocks, num_groups))
    assert {shape.width for shape in shapes} == {128, 512, 8192}
    assert {shape.num_groups for shape in shapes if shape.num_rows == 256} == {0, 4, 128}
    assert 2 * len({shape.num_rows for shape in shapes}) <= MAX_GRAPHS, "those of two widths are there at once"


def test_a_step_is_as_wide_as_its_longest_sequence_and_its_graph_may_be_wider() -> None:
    inputs = CudaGraphInputs(GraphShape(4, 9, 4), CPU)
    for shape, tables in (
        (GraphShape(4, 9, 0), [(1, 2, 3, 4, 5, 6, 7, 8, 9), (11,), (21, 22)]),
        (GraphShape(4, 9, 0), [(31, 32), (41,)]),
        (GraphShape(2, 5, 4), [(51,), (61, 62, 63)]),
    ):
        sequences = [
            ScheduledSequence(s, 4 * len(blocks) - 1, (7,), (blocks,), True) for s, blocks in enumerate(tables)
        ]
        own = BlockTables.of(SchedulerOutput(0, tuple(sequences)), 4)
        inputs.fill(shape, sequences, [PrefixGroup(0, (0, 1))] if shape.num_groups else [], own)
        batch = inputs.batch(shape)
        (table_SW,), (slots_T,) = batch.block_tables_KSW, batch.slots_KT
        assert table_SW.shape == (shape.num_rows, shape.width) and table_SW.is_contiguous()
        for row, blocks in zip(table_SW.tolist(), tables, strict=False):
            assert tuple(row[: len(blocks)]) == blocks
        assert batch.seq_lens_S[: len(tables)].tolist() == [4 * len(blocks) for blocks in tables]
        assert slots_T.tolist() == [*(blocks[-1] * 4 + 3 for blocks in tables), *[-1] * (len(slots_T) - len(tables))]


def test_the_plain_kernels_take_padding_too(tmp_path: Path) -> None:
    source = tiny(tmp_path, "qwen3")
    plain = answers(executor_of(source, None, torch.float32, "plain"))
    assert [tokens for tokens, _ in answers(executor_of(source, Recorder(), torch.float32, "plain"))] == [
        tokens for tokens, _ in plain
    ]


@pytest.mark.parametrize(
    ("piece", "fits"),
    [
        (ScheduledSequence(0, 3, (1,), ((0,),), True), True),
        (ScheduledSequence(0, 3, (1,), ((0,),), False), False),  # a chunk of a prompt
        (ScheduledSequence(0, 0, (1, 2), ((0,),), True), False),
        (ScheduledSequence(0, 0, (1, 2), ((0,),), True, num_draft_tokens=1), True),
        (ScheduledSequence(0, 0, (1, 2, 3), ((0,),), True, num_draft_tokens=1), False),
        (ScheduledSequence(0, 0, (1,), ((0,),), True, (5,)), False),  # the prompt's logits are wanted
    ],
)
def test_only_tokens_that_are_sampled_from_are_replayed(piece: ScheduledSequence, fits: bool) -> None:
    graphs = CudaGraphs(lambda batch: batch.tokens_T, Recorder(), LargestStep(2, 4), block_size=4, device=CPU)
    assert graphs.fits(SchedulerOutput(0, (piece,))) is fits
    assert not graphs.fits(SchedulerOutput(0, (piece,) * 3))
    assert not graphs.fits(SchedulerOutput(0, ()))


def test_on_a_cpu_drafts_behind_a_long_context_are_not_replayed() -> None:
    graphs = UnpaddedGraphs(lambda batch: batch.tokens_T, Recorder(), LargestStep(8, 4), block_size=4, device=CPU)
    assert graphs.shape_of(5, 1, 0) == GraphShape(5, 4, 0)
    for start, num_drafts, fits in ((0, 1, True), (5000, 0, True), (5000, 1, False)):
        piece = ScheduledSequence(0, start, (1,) * (1 + num_drafts), ((0,),), True, num_draft_tokens=num_drafts)
        assert graphs.fits(SchedulerOutput(0, (piece,))) is fits


def test_inputs_lie_where_kernels_need_not_be_compiled_again_for_them() -> None:
    """Triton compiles for pointers that are multiples of 16 bytes, and once more for others."""
    seen: list[ForwardBatch] = []

    def hidden(batch: ForwardBatch) -> torch.Tensor:
        seen.append(batch)
        return batch.tokens_T

    graphs = CudaGraphs(hidden, Recorder(), LargestStep(19, 9, num_tables=3), block_size=4, device=CPU)
    for count in range(1, 20):
        width = 1 + count % 9
        blocks = [((s,) * width,) * 3 for s in range(count)]
        sequences = tuple(ScheduledSequence(s, 4 * width - 1, (1,), owned, True) for s, owned in enumerate(blocks))
        scheduled = SchedulerOutput(0, sequences)
        tables = BlockTables.of(scheduled, 4, (CacheGroup(),) * 3)
        groups = [PrefixGroup(4, (s - 1, s)) for s in range(1, count, 2)]
        graphs.hidden(scheduled, tables, groups)
        seen.append(ForwardBatch.from_scheduled(scheduled, tables, CPU, groups))
    assert {batch.seq_lens_S.numel() for batch in seen} == {*range(1, 20), 24}, "in graphs and without them"
    shared = [tensor for batch in seen if batch.prefixes is not None for tensor in vars(batch.prefixes).values()]
    own = [tensor for batch in seen for tensor in vars(batch).values() if isinstance(tensor, torch.Tensor)]
    tables = [tensor for batch in seen for tensor in (*batch.slots_KT, *batch.block_tables_KSW)]
    assert {tensor.data_ptr() % 16 for tensor in (*shared, *own, *tables)} == {0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["llama3", "deepseek v3", "glm 5", "qwen3.5", "kimi linear", "lfm2 moe"])
def test_a_card_replays_what_it_computes(tmp_path: Path, family: str) -> None:
    oracle(family).save_pretrained(tmp_path)
    found = []
    for graphs in (False, True):
        engine = EngineConfig(dtype="bfloat16", enforce_eager=not graphs, cache=CacheConfig(num_blocks=256))
        found.append(answers(load_executor(ModelConfig(served_model_name="tiny", model=str(tmp_path), engine=engine))))
    assert [tokens for tokens, _ in found[0]] == [tokens for tokens, _ in found[1]]
