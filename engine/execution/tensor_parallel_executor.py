"""The tensor-parallel executor: a driver that schedules and samples, and workers that compute what it commands."""

import logging
import secrets
from collections.abc import Callable

import msgspec

from configs.schema import ModelConfig
from engine.cache.host_tier import HostTierError
from engine.cache.kv_offload import OffloadingConnector, open_others
from engine.errors import ModelError
from engine.execution.executor import Executor
from engine.execution.inline_executor import InlineExecutor
from engine.execution.load import device_of, load_executor
from engine.parallel.collectives import group_name, open_command_broadcast, open_group
from engine.parallel.rank_offload import RankOffloadingConnector
from engine.parallel.tensor_parallel import Collective, TensorParallel
from engine.parallel.worker_commands import (
    CommandBroadcast,
    Driver,
    LoadBlock,
    RankHeartbeat,
    Rendezvous,
    SaveBlock,
    Worker,
    WorkerCommand,
)
from engine.sampling.sampler import Sampling
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.structured_output.grammar import Vocabulary
from kernels.native.compiler import find_compiler
from kernels.native.segment import remove_abandoned

__all__ = ["TensorParallelExecutor", "run_worker", "start_driver"]

log = logging.getLogger(__name__)


class TensorParallelExecutor(Executor):
    """The first rank of several. A rank that is lost makes `execute` raise; the replica ends with it."""

    def __init__(
        self,
        local: InlineExecutor,
        driver: Driver,
        group: Collective,
        memory: CommandBroadcast | None = None,
        connector: RankOffloadingConnector | None = None,
        liveness: "Liveness | None" = None,
    ) -> None:
        """`connector` is what all ranks keep for other replicas; closed with the executor."""
        self.connector = connector
        self.collective = group.name
        self.kernels = local.kernels
        self.async_scheduling = local.async_scheduling
        self.vocab_size = local.vocab_size
        self.max_model_len = local.max_model_len
        self.block_size = local.block_size
        self.num_blocks = local.num_blocks
        self._local, self._driver, self._group, self._memory = local, driver, group, memory
        self._liveness = liveness or Liveness()

    def execute_model(self, scheduled: SchedulerOutput) -> ModelOutput:
        if scheduled.sequences:
            self._driver.send(scheduled)
        return self._liveness.checked(self._local.execute_model(scheduled))

    def launch_model(self, scheduled: SchedulerOutput) -> None:
        self._driver.send(scheduled)
        self._local.launch_model(scheduled)

    def sample_tokens(self) -> "PendingRankOutput":
        return PendingRankOutput(self._local.sample_tokens(), self._liveness)

    def compile_grammar(self, text: str) -> None:
        self._local.compile_grammar(text)

    def heartbeats(self) -> tuple[RankHeartbeat, ...]:
        return self._driver.heartbeats()

    def lose(self) -> None:
        self._liveness.lose()

    def close(self) -> None:
        self._liveness.end()
        if self.connector is not None:
            self.connector.close()
        self._driver.close()
        self._local.close()  # graphs first: NCCL would wait for those that hold its calls
        self._group.close()
        if self._memory is not None:
            self._memory.close()


class Liveness:
    """Whether all ranks are there. A GPU does not say that a sum broke off: what comes out then means nothing."""

    def __init__(self, give_up: Callable[[], None] = lambda: None) -> None:
        self._give_up = give_up
        self._is_lost = self._is_over = False

    def lose(self) -> None:
        """A rank is gone; at the end they all go."""
        if not self._is_over:
            self._is_lost = True
            self._give_up()

    def end(self) -> None:
        self._is_over = True

    def checked(self, result: ModelOutput) -> ModelOutput:
        """The same, unless it came about without some of them."""
        if self._is_lost:
            raise RuntimeError("a rank is gone")
        return result


class PendingRankOutput:
    def __init__(self, local: Sampling, liveness: Liveness) -> None:
        self._local, self._liveness = local, liveness

    def result(self) -> ModelOutput:
        return self._liveness.checked(self._local.result())


def start_driver(
    model: ModelConfig,
    host: str,
    on_one_node: bool,
    start_rank: Callable[[int, Rendezvous], None],
    vocabulary: Vocabulary | None = None,
    encode: Callable[[bytes], list[int]] | None = None,
    cache_key: bytes = b"",
) -> TensorParallelExecutor:
    """Loads the first rank and has the others started, each by a call of `start_rank`, which must not block.

    host        this node's address, where the other ranks connect
    cache_key   as of load_executor
    """
    size, token = model.tensor_parallel_size, secrets.token_hex(32)
    commands = f"manta-{secrets.token_hex(8)}" if on_one_node and find_compiler() is not None else ""
    on_gpu = device_of(model.engine).type == "cuda"
    if on_gpu and model.resources.num_gpus < 1:  # else Ray shows every rank all of them, and all take the first
        raise ModelError(
            f"tensor_parallel_size is {size}, and each rank takes a GPU of its own; set resources.num_gpus to 1, or "
            "engine.device to cpu"
        )
    name = group_name(host, on_one_node and not on_gpu)
    remove_abandoned("manta-" + "[0-9a-f]" * 16)  # by replicas that were killed while they loaded
    # memory must be there before the others look for it; a process group comes about when all have come
    try:
        memory = open_command_broadcast(commands, 0, size)
    except OSError as error:
        log.warning("the ranks send plans over TCP, there is no shared memory: %s", error.strerror)
        commands, memory = "", None
    group: Collective | None = None
    if not name.startswith("tcp://"):
        try:
            group = open_group(name, 0, size, on_gpu)
        except OSError as error:
            log.warning("the ranks add up over TCP, there is no shared memory: %s", error.strerror)
            name = group_name(host, False)
    driver = Driver(host, size, token, memory)
    if not on_one_node:
        model = _without_offloading(model)
    rendezvous = Rendezvous(host, driver.port, token, size, name, commands, cache_key if on_one_node else None)

    def give_up() -> None:
        for one in (group, memory):
            if one is not None:
                one.give_up()

    try:
        for rank in range(1, size):
            start_rank(rank, rendezvous)
        group = group or open_group(name, 0, size, on_gpu)
        tp = TensorParallel(0, size, group)
        local = load_executor(model, vocabulary, encode, tp, driver.agree, cache_key)
    except BaseException:
        give_up()
        driver.close()
        for one in (group, memory):
            if one is not None:
                one.close()
        raise
    for one in (group, memory):
        if one is not None:
            one.forget_name()
    liveness = Liveness(give_up)
    driver.watch(liveness.lose)
    log.info("%d ranks, plans over %s, sums over %s", size, "shared memory" if memory else "TCP", group.name)
    return TensorParallelExecutor(local, driver, group, memory, _open_connector(local, size, driver), liveness)


def run_worker(model: ModelConfig, rank: int, rendezvous: Rendezvous) -> None:
    """What every other rank does: loads its share and computes each plan, until the first rank is gone."""
    memory = open_command_broadcast(rendezvous.commands, rank, rendezvous.size)
    worker = Worker(rendezvous, rank, memory)
    group = open_group(rendezvous.group, rank, rendezvous.size, device_of(model.engine).type == "cuda")

    def give_up() -> None:
        group.give_up()
        if memory is not None:
            memory.give_up()

    if rendezvous.cache_key is None:
        model = _without_offloading(model)
    tp = TensorParallel(rank, rendezvous.size, group)
    executor = load_executor(model, tp=tp, agree=worker.agree, cache_key=rendezvous.cache_key or b"")
    worker.watch(give_up)
    worker.beat()
    for command in worker.commands():
        try:
            _run_command(command, executor, rank)
        except RuntimeError as error:
            log.warning("rank %d ends: %s", rank, error)
            break
    worker.close()
    executor.close()
    group.close()
    if memory is not None:
        memory.close()


def _run_command(command: WorkerCommand, executor: InlineExecutor, rank: int) -> None:
    match command:
        case SchedulerOutput():
            executor.execute_without_sampling(command)
        case SaveBlock(name, block):
            if executor.connector is not None:
                executor.connector.save(name, block)
        case LoadBlock(block, shares):
            executor.fill(block, shares[rank - 1])


def _open_connector(first: InlineExecutor, size: int, driver: Driver) -> RankOffloadingConnector | None:
    if not isinstance(first.connector, OffloadingConnector):
        return None
    try:
        return RankOffloadingConnector(first.connector, open_others(first.connector, size), driver.send)
    except HostTierError as error:
        log.warning("no blocks are kept for other replicas (engine.cache.kv_offloading_bytes): %s", error)
        return None


def _without_offloading(model: ModelConfig) -> ModelConfig:
    if not model.engine.cache.kv_offloading_bytes:
        return model
    log.warning(
        "no blocks are kept for other replicas (engine.cache.kv_offloading_bytes): the ranks are on several nodes"
    )
    cache = msgspec.structs.replace(model.engine.cache, kv_offloading_bytes=0)
    return msgspec.structs.replace(model, engine=msgspec.structs.replace(model.engine, cache=cache))
