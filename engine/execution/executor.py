"""Protocols of an executor: execute_model for a step at a time, launch_model and sample_tokens for async scheduling."""

from typing import Protocol, runtime_checkable

from engine.cache.kv_connector import KVConnector
from engine.parallel.worker_commands import RankHeartbeat
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput

__all__ = ["AsyncExecutor", "Executor", "GrammarCompiler", "MultiRankExecutor", "PendingOutput"]


class Executor(Protocol):
    """Computes what the scheduler has decided. inline_executor.py and tensor_parallel_executor.py are the real ones."""

    vocab_size: int
    max_model_len: int  # tokens
    block_size: int  # tokens
    num_blocks: int
    async_scheduling: bool = False  # it is an AsyncExecutor, and worth while as one: the device works on its own
    connector: KVConnector | None = None  # another tier of its KV blocks; what that has needs not be computed again
    collective: str = ""  # what its ranks add up over, for the status
    kernels: str = ""  # what its numbers depend on, to the last bit

    def execute_model(self, scheduled: SchedulerOutput) -> ModelOutput: ...

    def close(self) -> None: ...


class PendingOutput(Protocol):
    """The output of a step that is being sampled."""

    def result(self) -> ModelOutput: ...


@runtime_checkable
class AsyncExecutor(Protocol):
    """One that can launch a step before the step before is sampled.

    Among a step's tokens, -1 stands for the one that the sequence samples in the step before.
    """

    def launch_model(self, scheduled: SchedulerOutput) -> None: ...

    def sample_tokens(self) -> PendingOutput:
        """Of the step that was launched last. Its result must be asked for before the next one is sampled."""
        ...


@runtime_checkable
class GrammarCompiler(Protocol):
    """One that can compile a grammar ahead, in any thread."""

    def compile_grammar(self, text: str) -> None: ...


@runtime_checkable
class MultiRankExecutor(Protocol):
    """One over several ranks. Both calls in any thread."""

    def heartbeats(self) -> tuple[RankHeartbeat, ...]:
        """The last heartbeat of each rank from 1 on."""
        ...

    def lose(self) -> None:
        """A rank is given up: nobody waits for it any more, and every step fails."""
        ...
