"""Warm-up: runs a step of each kind before the first request, so that kernels are compiled and graphs captured.

Triton compiles a kernel at its first call, for seconds, in which the replica would seem dead. The largest steps come
first: that they fit into memory is known at the start, and smaller graphs find their scratch memory allocated.

One after the other these kernels take half a minute to compile. `launch_all` launches the same ones without reading
their outputs, so that kernels/compile_ahead.py can record the launches and compile them in parallel.

All steps use block 0 and state 0, which no sequence has yet: they write there, and read undefined contents.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from configs.schema import SchedulerConfig
from engine.cache.cache_layout import CacheGroup
from engine.model.cascade import CascadeThresholds
from engine.scheduling.scheduler_output import NewSequence, ScheduledSequence, SchedulerOutput
from engine.types import SamplingParams

__all__ = ["Launchable", "Warmable", "launch_all", "warm_up"]

# products with quantized weights have launch parameters up to each of these (kernels/quantized_linear/triton.py)
FEW_ROWS = 256, 128, 64, 32, 16, 1
# every stage of the sampler is on
SAMPLING = SamplingParams(
    max_tokens=1,
    temperature=0.5,
    top_p=0.5,
    top_k=2,
    min_p=0.01,
    repetition_penalty=1.2,  # whose entries are the prompt's tokens
    logit_bias=((0, 1.0),),
    allowed_token_ids=(0, 1),
    bad_words=((0,),),
    num_logprobs=1,
)
GREEDY = SamplingParams(max_tokens=1, temperature=0.0)


class Warmable(Protocol):
    """An InlineExecutor, which may be one rank of several."""

    block_size: int
    max_model_len: int
    num_states: int
    cache_groups: tuple[CacheGroup, ...]
    cascade: CascadeThresholds | None
    samples: bool

    def execute_model(self, scheduled: SchedulerOutput) -> object: ...

    def execute_without_sampling(self, scheduled: SchedulerOutput) -> None: ...


class Launchable(Warmable, Protocol):
    def launch_model(self, scheduled: SchedulerOutput) -> None: ...

    def sample_tokens(self) -> object: ...


def launch_all(executor: Launchable, config: SchedulerConfig) -> None:
    """Launches the steps of `warm_up` without reading their results."""

    def launch(scheduled: SchedulerOutput) -> None:
        executor.launch_model(scheduled)
        executor.sample_tokens()

    _run_steps(executor, config, launch)


def warm_up(executor: Warmable, config: SchedulerConfig) -> None:
    """Runs the steps. Leaves only compiled kernels and CUDA graphs behind."""
    _run_steps(executor, config, executor.execute_model)


def _run_steps(executor: Warmable, config: SchedulerConfig, run: Callable[[SchedulerOutput], object]) -> None:
    """Calls `run` for each step if this rank samples, and drops the sampling states."""
    for number, sequences in enumerate(_steps(executor, config)):
        seq_ids = tuple(piece.seq_id for piece in sequences)
        if not executor.samples:
            executor.execute_without_sampling(SchedulerOutput(number, sequences))
            executor.execute_without_sampling(SchedulerOutput(number, (), finished_ids=seq_ids))
            continue
        run(SchedulerOutput(number, sequences, _starts(number, seq_ids)))
        executor.execute_model(SchedulerOutput(number, (), finished_ids=seq_ids))


def _starts(number: int, seq_ids: Sequence[int]) -> tuple[NewSequence, ...]:
    return tuple(NewSequence(seq_id, GREEDY if number else SAMPLING, 0, (0,), ()) for seq_id in seq_ids)


def _steps(executor: Warmable, config: SchedulerConfig) -> Iterator[tuple[ScheduledSequence, ...]]:
    block_size, context_len = executor.block_size, executor.max_model_len
    # the widest block tables: attention is split and combined
    all_blocks = ((0,) * -(-context_len // block_size),) * len(executor.cache_groups)
    state = 0 if executor.num_states else -1
    num_draft_tokens = min(config.num_speculative_tokens, context_len - 1)
    num_seqs = max(1, min(config.max_num_seqs, config.max_num_batched_tokens // (1 + num_draft_tokens)))

    def sequences(
        counts: Sequence[int], start: int = 0, num_draft_tokens: int = 0, scored: int = 0
    ) -> tuple[ScheduledSequence, ...]:
        return tuple(
            ScheduledSequence(-1 - at, start, (0,) * count, all_blocks, True, (0,) * scored, num_draft_tokens, state)
            for at, count in enumerate(counts)
        )

    # single tokens
    yield sequences([1 + num_draft_tokens] * num_seqs, num_draft_tokens=num_draft_tokens)
    for count in FEW_ROWS:
        if count < num_seqs:
            yield sequences([1] * count)
    # chunks of prompts
    whole, rest = divmod(config.max_num_batched_tokens, context_len)
    yield sequences([*[context_len] * min(whole, config.max_num_seqs), *([rest] if rest and whole < num_seqs else ())])
    yield sequences([min(3, config.max_num_batched_tokens, context_len)], scored=1)
    # cascade attention, alone and beside a chunk
    for rows, tokens in executor.cascade.steps[:1] if executor.cascade is not None else ():
        shared = -(-tokens // block_size) * block_size
        if context_len >= shared + 2 and config.max_num_batched_tokens >= rows + 2:
            yield sequences([1] * rows, start=shared)
            if config.max_num_seqs > rows:
                yield sequences([1] * rows + [2], start=shared)
