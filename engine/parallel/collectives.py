"""Opens the message queue and the collectives of tensor-parallel ranks: shared memory, or torch.distributed."""

import secrets
import socket

from engine.parallel.tensor_parallel import Collective
from engine.parallel.torch_group import TorchGroup
from engine.parallel.worker_commands import MessageQueue
from kernels.native.compiler import Compiler, find_compiler

__all__ = ["group_name", "open_message_queue", "open_group"]

TIMEOUT_S = 30.0  # a rank for which the others wait so long is lost


def group_name(host: str, shares_memory: bool) -> str:
    if shares_memory and find_compiler() is not None:
        return f"shm://manta-{secrets.token_hex(8)}"
    with socket.create_server((host, 0)) as probe:  # a free port, for the process group
        return f"tcp://{host}:{probe.getsockname()[1]}"


def open_message_queue(name: str, rank: int, size: int) -> MessageQueue | None:
    if not name:
        return None
    from kernels.shm_broadcast.cpu import ShmMessageQueue

    return ShmMessageQueue(_compiler(), name, rank, size, TIMEOUT_S)


def open_group(name: str, rank: int, size: int, on_gpu: bool) -> Collective:
    if name.startswith("tcp://"):
        return TorchGroup(name, rank, size, on_gpu)
    from kernels.shm_collectives.cpu import ShmCollectives

    return ShmCollectives(_compiler(), name.removeprefix("shm://"), rank, size, TIMEOUT_S)


def _compiler() -> Compiler:
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("the first rank has a C compiler, this one has none: install one on every node")
    return compiler
