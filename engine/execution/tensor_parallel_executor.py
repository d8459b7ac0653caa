"""A model over several ranks: the first one plans, samples and tells the others what to compute."""

import contextlib
import logging
import secrets
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import torch
import torch.distributed
from torch import Tensor

from configs.schema import ModelConfig
from engine.cache.host_tier import HostTierError
from engine.cache.kv_offload import open_others
from engine.errors import ModelError
from engine.execution.inline_executor import InlineExecutor
from engine.execution.load import device_of, load_executor
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
from kernels.native.compiler import Compiler, find_compiler
from kernels.native.segment import remove_abandoned

__all__ = ["TensorParallelExecutor", "run_worker", "start_driver"]

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0  # a rank that lets the others wait for so long is lost
# the same of a process group: ranks may be started one after the other, and one compiles kernels while another waits
GROUP_TIMEOUT_S = 300.0


class TensorParallelExecutor:
    """The first rank of several. A rank that is lost makes `execute` raise; the replica ends with it."""

    def __init__(
        self,
        local: InlineExecutor,
        driver: Driver,
        group: Collective,
        memory: CommandBroadcast | None = None,
        blocks: RankOffloadingConnector | None = None,
        liveness: "Liveness | None" = None,
    ) -> None:
        """`blocks` are what all ranks keep for other replicas; closed with the executor."""
        self.blocks = blocks
        self.collective = group.name
        self.overlaps = local.overlaps
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
        if self.blocks is not None:
            self.blocks.close()
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
    size, token = model.tensor_parallel, secrets.token_hex(32)
    commands = f"manta-{secrets.token_hex(8)}" if on_one_node and find_compiler() is not None else ""
    on_gpu = device_of(model.engine).type == "cuda"
    if on_gpu and model.resources.num_gpus < 1:  # else Ray shows every rank all of them, and all take the first
        raise ModelError(
            f"tensor_parallel is {size}, and each rank takes a GPU of its own; set resources.num_gpus to 1, or "
            "engine.device to cpu"
        )
    name = _group_name(host, on_one_node and not on_gpu)
    remove_abandoned("manta-" + "[0-9a-f]" * 16)  # by replicas that were killed while they loaded
    # memory must be there before the others look for it; a process group comes about when all have come
    try:
        memory = _memory(commands, 0, size)
    except OSError as error:
        log.warning("the ranks send plans over TCP, there is no shared memory: %s", error.strerror)
        commands, memory = "", None
    group: Collective | None = None
    if not name.startswith("tcp://"):
        try:
            group = _group(name, 0, size, on_gpu)
        except OSError as error:
            log.warning("the ranks add up over TCP, there is no shared memory: %s", error.strerror)
            name = _group_name(host, False)
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
        group = group or _group(name, 0, size, on_gpu)
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
    return TensorParallelExecutor(local, driver, group, memory, _blocks(local, size, driver), liveness)


def run_worker(model: ModelConfig, rank: int, rendezvous: Rendezvous) -> None:
    """What every other rank does: loads its share and computes each plan, until the first rank is gone."""
    memory = _memory(rendezvous.commands, rank, rendezvous.size)
    worker = Worker(rendezvous, rank, memory)
    group = _group(rendezvous.group, rank, rendezvous.size, device_of(model.engine).type == "cuda")

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
            if executor.offloading_connector is not None:
                executor.offloading_connector.save(name, block)
        case LoadBlock(block, shares):
            executor.fill(block, shares[rank - 1])


def _blocks(first: InlineExecutor, size: int, driver: Driver) -> RankOffloadingConnector | None:
    if first.offloading_connector is None:
        return None
    try:
        return RankOffloadingConnector(
            first.offloading_connector, open_others(first.offloading_connector, size), driver.send
        )
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


class TorchGroup:
    """Ranks anywhere: NCCL between GPUs, gloo between CPUs of several nodes.

    NCCL_GRAPH_MIXING_SUPPORT stays as NCCL has it: without it no call may be made while a graph with calls is still
    under way, not even behind it on the same stream, and logits are gathered so.
    """

    in_order = False  # where a rank's part begins in a tensor follows from the tensor's size

    def __init__(self, address: str, rank: int, size: int, on_gpu: bool, dist: Any = torch.distributed) -> None:
        self._backend = "nccl" if on_gpu else "gloo"
        # of a GPU that it knows NCCL connects the ranks now, and not in the first step
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None
        dist.init_process_group(
            self._backend,
            init_method=address,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=GROUP_TIMEOUT_S),
            device_id=device,
        )
        self.name = self._backend
        self._rank, self._size, self._dist = rank, size, dist

    def sum(self, x: Tensor) -> None:
        self._dist.all_reduce(x)

    def gather(self, x: Tensor) -> Tensor | None:
        parts = [torch.empty_like(x) for _ in range(self._size)]
        self._dist.all_gather(parts, x.contiguous())
        return torch.stack(parts) if self._rank == 0 else None

    def give_up(self) -> None:
        """Whoever waits in a collective finds the connection closed. On a GPU it ends, and nobody is told."""
        if self._backend == "nccl":  # to destroy it waits for what the lost rank will never send
            with contextlib.suppress(Exception):
                self._dist.distributed_c10d._abort_process_group()
            return
        self.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._dist.destroy_process_group()

    def forget_name(self) -> None:
        """A process group has none."""


def _group_name(host: str, shares_memory: bool) -> str:
    if shares_memory and find_compiler() is not None:
        return f"shm://manta-{secrets.token_hex(8)}"
    with socket.create_server((host, 0)) as probe:  # free now; nobody else is told of it
        return f"tcp://{host}:{probe.getsockname()[1]}"


def _memory(name: str, rank: int, size: int) -> CommandBroadcast | None:
    if not name:
        return None
    from kernels.shm_broadcast.cpu import ShmBroadcast

    return ShmBroadcast(_compiler(), name, rank, size, TIMEOUT_S)


def _group(name: str, rank: int, size: int, on_gpu: bool) -> Collective:
    if name.startswith("tcp://"):
        return TorchGroup(name, rank, size, on_gpu)
    from kernels.shm_collectives.cpu import ShmCollectives

    return ShmCollectives(_compiler(), name.removeprefix("shm://"), rank, size, TIMEOUT_S)


def _compiler() -> Compiler:
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("the first rank has a C compiler, this one has none: install one on every node")
    return compiler
