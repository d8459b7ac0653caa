"""The tensor-parallel executor: a driver rank that samples, and worker ranks that run its commands."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from configs.schema import ModelConfig
from engine.cache.host_tier import HostTierError
from engine.cache.kv_connector import KVConnector
from engine.cache.kv_offload import OffloadingConnector, open_worker_tiers
from engine.errors import ModelError
from engine.execution.executor import Executor
from engine.execution.gc_heap import freeze_gc_heap
from engine.execution.inline_executor import InlineExecutor
from engine.execution.load import device_of, load_executor
from engine.parallel.collectives import group_name, open_group, open_message_queue
from engine.parallel.rank_offload import RankOffloadingConnector
from engine.parallel.tensor_parallel import Collective, TensorParallel
from engine.parallel.worker_commands import (
    Driver,
    LoadBlock,
    MessageQueue,
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

__all__ = ["TensorParallelExecutor", "WorkerPlacement", "run_worker", "start_driver"]

log = logging.getLogger(__name__)


class TensorParallelExecutor(Executor):
    """The driver's end. If a rank is lost, every step raises, and the replica ends."""

    def __init__(
        self,
        local: InlineExecutor,
        driver: Driver,
        group: Collective,
        memory: MessageQueue | None = None,
        connectors: tuple[KVConnector | None, KVConnector | None] = (None, None),
        liveness: "Liveness | None" = None,
    ) -> None:
        """`connectors`: to the ranks' host tiers of blocks and of states; closed with the executor."""
        self.connector, self.state_connector = connectors
        self.collective = group.name
        self.kernels = local.kernels
        self.async_scheduling = local.async_scheduling
        self.vocab_size = local.vocab_size
        self.max_model_len = local.max_model_len
        self.block_size = local.block_size
        self.num_blocks, self.num_states = local.num_blocks, local.num_states
        self.cache_groups = local.cache_groups
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
        for connector in (self.connector, self.state_connector):
            if connector is not None:
                connector.close()
        self._driver.close()
        self._local.close()  # graphs first: NCCL waits for those that have captured its calls
        self._group.close()
        if self._memory is not None:
            self._memory.close()


class Liveness:
    """Whether all ranks are alive. An aborted all-reduce on a GPU raises nothing: its output is undefined."""

    def __init__(self, abort: Callable[[], None] = lambda: None) -> None:
        self._abort = abort
        self._is_lost = self._is_over = False

    def lose(self) -> None:
        """Marks a rank as lost and aborts collectives, unless the executor is being closed."""
        if not self._is_over:
            self._is_lost = True
            self._abort()

    def end(self) -> None:
        self._is_over = True

    def checked(self, result: ModelOutput) -> ModelOutput:
        """`result`, or RuntimeError if a rank was lost meanwhile."""
        if self._is_lost:
            raise RuntimeError("a rank is gone")
        return result


class PendingRankOutput:
    def __init__(self, local: Sampling, liveness: Liveness) -> None:
        self._local, self._liveness = local, liveness

    def result(self) -> ModelOutput:
        return self._liveness.checked(self._local.result())


@dataclass(frozen=True)
class WorkerPlacement:
    """Where a replica's ranks run, and how each of them is started."""

    host: str  # the driver's address, where the other ranks connect
    on_one_node: bool  # all ranks share memory
    start_rank: Callable[[int, Rendezvous], None]  # must not block


def start_driver(
    model: ModelConfig,
    placement: WorkerPlacement,
    vocabulary: Vocabulary | None = None,
    encode: Callable[[bytes], list[int]] | None = None,
    cache_key: bytes = b"",
) -> TensorParallelExecutor:
    """Loads rank 0 and starts the others. vocabulary, encode, cache_key: as in load_executor."""
    host, on_one_node = placement.host, placement.on_one_node
    size, token = model.tensor_parallel_size, secrets.token_hex(32)
    commands = f"manta-{secrets.token_hex(8)}" if on_one_node and find_compiler() is not None else ""
    on_gpu = device_of(model.engine).type == "cuda"
    if on_gpu and model.resources.num_gpus < 1:  # else Ray shows every rank all GPUs, and all take the first
        raise ModelError(
            f"tensor_parallel_size is {size}, and each rank takes a GPU of its own; set resources.num_gpus to 1, or "
            "engine.device to cpu"
        )
    name = group_name(host, on_one_node and not on_gpu)
    remove_abandoned("manta-" + "[0-9a-f]" * 16)  # of replicas that were killed while they loaded
    # the segment must exist before the others open it; a process group forms when all ranks have joined
    try:
        memory = open_message_queue(commands, 0, size)
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

    def abort() -> None:
        for one in (group, memory):
            if one is not None:
                one.abort()

    try:
        for rank in range(1, size):
            placement.start_rank(rank, rendezvous)
        group = group or open_group(name, 0, size, on_gpu)
        tp = TensorParallel(0, size, group)
        local = load_executor(model, vocabulary, encode, tp, driver.all_reduce_min, cache_key)
    except BaseException:
        abort()
        driver.close()
        for one in (group, memory):
            if one is not None:
                one.close()
        raise
    for one in (group, memory):
        if one is not None:
            one.unlink()
    liveness = Liveness(abort)
    driver.watch(liveness.lose)
    log.info("%d ranks, plans over %s, sums over %s", size, "shared memory" if memory else "TCP", group.name)
    return TensorParallelExecutor(local, driver, group, memory, _open_connectors(local, size, driver), liveness)


def run_worker(model: ModelConfig, rank: int, rendezvous: Rendezvous) -> None:
    """The main loop of a worker rank: loads its shard and runs each command, until the driver is gone."""
    memory = open_message_queue(rendezvous.commands, rank, rendezvous.size)
    worker = Worker(rendezvous, rank, memory)
    group = open_group(rendezvous.group, rank, rendezvous.size, device_of(model.engine).type == "cuda")

    def abort() -> None:
        group.abort()
        if memory is not None:
            memory.abort()

    if rendezvous.cache_key is None:
        model = _without_offloading(model)
    tp = TensorParallel(rank, rendezvous.size, group)
    executor = load_executor(model, tp=tp, all_reduce_min=worker.all_reduce_min, cache_key=rendezvous.cache_key or b"")
    freeze_gc_heap()
    worker.watch(abort)
    worker.start_heartbeats()
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
        case SaveBlock(name, block, is_state):
            connector = executor.state_connector if is_state else executor.connector
            if connector is not None:
                connector.save(name, block)
        case LoadBlock(block, shares, is_state):
            executor.fill(block, shares[rank - 1], is_state)


def _open_connectors(first: InlineExecutor, size: int, driver: Driver) -> tuple[KVConnector | None, KVConnector | None]:
    """Of all ranks, from those of the first one."""
    opened: list[KVConnector | None] = []
    for own, is_state in ((first.connector, False), (first.state_connector, True)):
        if not isinstance(own, OffloadingConnector):
            opened.append(own)
            continue
        try:
            others = open_worker_tiers(own, size)
        except HostTierError as error:
            log.warning("no blocks are kept for other replicas (engine.cache.kv_offloading_bytes): %s", error)
            return None, None
        opened.append(RankOffloadingConnector(own, others, driver.send, is_state))
    return opened[0], opened[1]


def _without_offloading(model: ModelConfig) -> ModelConfig:
    if not model.engine.cache.kv_offloading_bytes:
        return model
    log.warning(
        "no blocks are kept for other replicas (engine.cache.kv_offloading_bytes): the ranks are on several nodes"
    )
    cache = msgspec.structs.replace(model.engine.cache, kv_offloading_bytes=0)
    return msgspec.structs.replace(model, engine=msgspec.structs.replace(model.engine, cache=cache))
