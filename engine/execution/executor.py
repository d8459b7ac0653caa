"""Executor protocols: execute_model computes a step; launch_model and sample_tokens are for async scheduling."""

from typing import Protocol, runtime_checkable

from engine.cache.cache_layout import CacheGroup
from engine.cache.kv_connector import KVConnector
from engine.parallel.worker_commands import RankHeartbeat
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput

__all__ = ["AsyncExecutor", "Executor", "GrammarCompiler", "MultiRankExecutor", "PendingOutput"]


class Executor(Protocol):
    """Computes the scheduler's steps. Implemented by inline_executor.py and tensor_parallel_executor.py."""

    vocab_size: int
    max_model_len: int  # tokens
    block_size: int  # tokens
    num_blocks: int
    cache_groups: tuple[CacheGroup, ...] = (CacheGroup(),)  # which blocks of a sequence are kept
    num_states: int = 0  # slots for states of recurrent layers; 0: the model has none
    async_scheduling: bool = False  # it is an AsyncExecutor whose device computes asynchronously
    connector: KVConnector | None = None  # another tier of its KV blocks, whose blocks need not be computed again
    state_connector: KVConnector | None = None  # the same of states after blocks
    collective: str = ""  # backend of its ranks' all-reduce, for the status
    kernels: str = ""  # what its numbers depend on, to the last bit

    def execute_model(self, scheduled: SchedulerOutput) -> ModelOutput: ...

    def rest(self) -> None:
        """No step comes next: what was kept for it may serve others."""
        return None

    def close(self) -> None: ...


class PendingOutput(Protocol):
    """The future of a step's output."""

    def result(self) -> ModelOutput: ...


@runtime_checkable
class AsyncExecutor(Protocol):
    """An executor that can launch a step before the previous one is sampled.

    Among a step's tokens, -1 is a placeholder for the token that the sequence samples in the previous step. A step with
    draft tokens is sampled before the next one is launched.
    """

    def launch_model(self, scheduled: SchedulerOutput) -> None: ...

    def sample_tokens(self) -> PendingOutput:
        """Samples the step that was launched last. The result must be read before the next step is sampled."""
        ...


@runtime_checkable
class GrammarCompiler(Protocol):
    """An executor that compiles grammars ahead of their first step, in any thread."""

    def compile_grammar(self, text: str) -> None: ...


@runtime_checkable
class MultiRankExecutor(Protocol):
    """An executor over several ranks. Both calls in any thread."""

    def heartbeats(self) -> tuple[RankHeartbeat, ...]:
        """The last heartbeat of each rank from 1 on."""
        ...

    def lose(self) -> None:
        """Aborts the ranks' collectives after a rank was lost: every step fails."""
        ...
