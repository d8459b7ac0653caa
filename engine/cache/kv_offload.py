"""KV offload: the replicas of one node share full KV blocks in host memory (the host tier), and recurrent states.

A replica finds there what any other one has computed for a prefix, also one that has died. Equal block hashes mean
equal tokens up to the end of the block; `identity` has everything else that keys, values and states depend on. States
have a host tier of their own: both have room for the same number of tokens.
"""

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import torch
from torch import Tensor

from configs.schema import ModelConfig
from engine.arch.model_arch import ModelArch
from engine.cache.host_tier import WAYS, HostTier, HostTierError
from engine.cache.kv_cache import CachePieces, KVCache, split_as
from engine.cache.kv_connector import KVConnector
from engine.checkpoint.source import ModelFiles
from engine.errors import ModelError

__all__ = [
    "KVOrigin",
    "NoBlocks",
    "OffloadingConnector",
    "identity",
    "offloading_connector_of",
    "open_offloading_connectors",
    "open_worker_tiers",
]

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 32  # blocks between device and host at the same time
MAX_STATES_IN_FLIGHT = 2
CODE = (
    "kernels",
    "engine/model",
    "engine/arch",
    "engine/checkpoint",
)  # the code that keys, values and a block's layout depend on


Copy = Callable[[Tensor, Tensor], object]  # to, from


def _copy(to: Tensor, source: Tensor) -> None:
    to.copy_(source, non_blocking=True)


class OffloadingConnector:
    """The KV connector to a host tier: saves and loads blocks or states of a KVCache by block hash.

    On a GPU the copy of a block to the host is queued on a stream of its own behind the step; a thread writes it into
    the host tier when it has arrived.
    """

    def __init__(
        self, pieces: CachePieces, host_tier: HostTier, staging_buffers: "Sequence[StagingBuffer]" = ()
    ) -> None:
        """`staging_buffers`: pinned memory for copies to and from a GPU, which the engine's thread does not wait
        for; () on a CPU.
        """
        self.host_tier = host_tier
        self._pieces = pieces
        self._writer = _Writer(host_tier, staging_buffers) if staging_buffers else None

    def holds(self, name: bytes) -> bool:
        return self.host_tier.holds(name)

    def load(self, name: bytes, block: int) -> bool:
        """Fills a block before all that is queued from now on. False: it was evicted."""
        if self._writer is None:
            return self.host_tier.read(name, self._pieces.buffers(block))
        staging = self._writer.free_staging()
        if not self.host_tier.read(name, [staging.host.numpy()]):
            self._writer.release(staging)
            return False
        staging.send(self._pieces.parts(block))
        self._writer.put(staging)
        return True

    def save(self, name: bytes, block: int) -> None:
        """Saves a block as it is after all that is queued up to now, unless it is saved already."""
        if self.host_tier.holds(name):
            return
        if self._writer is None:
            self.host_tier.write(name, self._pieces.buffers(block))
            return
        staging = self._writer.free_staging()
        staging.fetch(self._pieces.parts(block))
        self._writer.put(staging, name)

    def close(self) -> None:
        """Waits for the blocks that are being saved."""
        if self._writer is not None:
            self._writer.close()
        self.host_tier.close()


class NoBlocks:
    """The KV connector to blocks that hold nothing, of a model whose layers all have states."""

    def holds(self, name: bytes) -> bool:
        return True

    def load(self, name: bytes, block: int) -> bool:
        return True

    def save(self, name: bytes, block: int) -> None: ...

    def close(self) -> None: ...


class StagingBuffer(Protocol):
    """Pinned host memory for one block or state between the device and the host tier."""

    host: Tensor  # [bytes], on the host

    def fetch(self, parts: Sequence[Tensor]) -> None:
        """Queues the copy to the host, behind all that is queued up to now."""
        ...

    def send(self, parts: Sequence[Tensor]) -> None:
        """Queues the copy to the device, before all that is queued from now on."""
        ...

    def wait(self) -> None:
        """Waits until the copy is done and this buffer is free."""
        ...


class _Writer:
    """A thread that waits for copies in order, and writes blocks from the device into the host tier.

    It has its own view of the host tier, which is not thread safe.
    """

    def __init__(self, host_tier: HostTier, staging_buffers: "Sequence[StagingBuffer]") -> None:
        self._host_tier = host_tier.open_sibling(host_tier.identity)
        self._free: queue.SimpleQueue[StagingBuffer] = queue.SimpleQueue()
        for staging in staging_buffers:
            self._free.put(staging)
        self._under_way: queue.SimpleQueue[tuple[StagingBuffer, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kv-offload", daemon=True)
        self._thread.start()

    def free_staging(self) -> "StagingBuffer":
        """A free staging buffer; waits for the oldest copy where there is none."""
        return self._free.get()

    def release(self, staging: "StagingBuffer") -> None:
        """Returns a staging buffer that was not used."""
        self._free.put(staging)

    def put(self, staging: "StagingBuffer", name: bytes = b"") -> None:
        """`name`: the block hash to save it under; b"": it is not saved."""
        self._under_way.put((staging, name))

    def close(self) -> None:
        self._under_way.put(None)
        self._thread.join()
        self._host_tier.close()

    def _run(self) -> None:
        while (one := self._under_way.get()) is not None:
            staging, name = one
            try:
                staging.wait()
                if name:
                    self._host_tier.write(name, [staging.host.numpy()])
            except (
                Exception
            ) as error:  # of any kind: the block is computed again, and a broken device fails the engine's own step
                log.warning("a block is not kept for other replicas: %s: %s", type(error).__name__, error)
            self._free.put(staging)


class _CudaStagingBuffer:
    """Copies within the device are queued on the steps' stream; host-device copies have a stream for each direction.

    steps     ... | block -> staged | the next step may write the block ...
    offload                         | staged -> host |

    load      | host -> staged |
    steps     ...              | staged -> block | the next step may read the block ...
    """

    def __init__(
        self, pieces: CachePieces, offload_stream: Any, load_stream: Any, cuda: Any = torch.cuda, copy: Copy = _copy
    ) -> None:
        pinned = pieces.device.type == "cuda"
        self.host = torch.empty(pieces.num_bytes, dtype=torch.uint8, pin_memory=pinned)
        self._staged = torch.empty(pieces.num_bytes, dtype=torch.uint8, device=pieces.device)
        self._staged_parts = split_as(pieces.parts(0), self._staged)
        self._cuda, self._copy = cuda, copy
        self._offload_stream, self._load_stream = offload_stream, load_stream
        self._staged_is_filled = cuda.Event()
        self._done = cuda.Event(blocking=True)  # waiting sleeps, does not spin

    def fetch(self, parts: Sequence[Tensor]) -> None:
        for staged, part in zip(self._staged_parts, parts, strict=True):
            self._copy(staged, part)
        self._staged_is_filled.record()
        self._offload_stream.wait_event(self._staged_is_filled)
        with self._cuda.stream(self._offload_stream):
            self._copy(self.host, self._staged)
            self._done.record()

    def send(self, parts: Sequence[Tensor]) -> None:
        with self._cuda.stream(self._load_stream):
            self._copy(self._staged, self.host)
            self._staged_is_filled.record()
        self._cuda.current_stream().wait_event(self._staged_is_filled)
        for staged, part in zip(self._staged_parts, parts, strict=True):
            self._copy(part, staged)
        self._done.record()

    def wait(self) -> None:
        self._done.synchronize()


class KVOrigin(NamedTuple):
    """Everything that the keys and values of given tokens depend on, besides the dtype and device of the KV cache."""

    model: ModelConfig
    files: ModelFiles
    arch: ModelArch  # the whole model's
    kernels: str  # name of the kernel set
    cache_key: bytes  # engines with another one share no blocks


def open_offloading_connectors(
    origin: KVOrigin, kv: KVCache, rank: int = 0, num_ranks: int = 1
) -> tuple[KVConnector | None, KVConnector | None]:
    """The KV connectors of blocks and of states to the node's host tiers; None where the config or the machine has no
    memory for them, and for states of a model without.

    Each rank has its part of the memory.
    """
    cache = origin.model.engine.cache
    if not cache.kv_offloading_bytes or not cache.enable_prefix_caching:
        return None, None
    blocks, states = kv.blocks, kv.states
    num_bytes = cache.kv_offloading_bytes // num_ranks
    least = WAYS * (blocks.num_bytes + states.num_bytes)
    if num_bytes < least:
        of_one = "blocks" if not states.num_bytes else "blocks and states"
        raise ModelError(
            f"engine.cache.kv_offloading_bytes is {cache.kv_offloading_bytes}; {WAYS} {of_one} of this model take "
            f"{least * num_ranks}"
        )
    whole = identity(origin, kv)
    state_bytes = _state_share(num_bytes, kv, cache.state_snapshot_interval)
    of_blocks: KVConnector = NoBlocks()
    try:
        if blocks.num_bytes:
            of_blocks = _connector(blocks, _share(whole, rank), num_bytes - state_bytes)
        if not states.num_bytes:
            return of_blocks, None
        return of_blocks, _connector(states, _share(f"{whole}-states", rank), state_bytes, MAX_STATES_IN_FLIGHT)
    except HostTierError as error:
        of_blocks.close()
        log.warning("no blocks are kept for other replicas (engine.cache.kv_offloading_bytes): %s", error)
        return None, None


def _state_share(num_bytes: int, kv: KVCache, interval: int) -> int:
    """How many of the bytes are for states: as many tokens can be found by them as there are blocks of."""
    blocks, states = kv.blocks.num_bytes, kv.states.num_bytes
    if not states:
        return 0
    blocks_between = -(-max(1, interval) // kv.block_size) * len(kv.layout.groups) * blocks
    share = int(num_bytes * states / (states + blocks_between))
    return min(max(share, WAYS * states), num_bytes - WAYS * blocks)


def _connector(pieces: CachePieces, name: str, num_bytes: int, in_flight: int = MAX_IN_FLIGHT) -> "OffloadingConnector":
    """Raises HostTierError."""
    return offloading_connector_of(pieces, HostTier(name, pieces.num_bytes, num_bytes), in_flight)


def offloading_connector_of(
    pieces: CachePieces, host_tier: HostTier, in_flight: int = MAX_IN_FLIGHT
) -> OffloadingConnector:
    """A connector with staging buffers if the KV cache is on a GPU. Raises HostTierError."""
    device = pieces.device
    if device.type != "cuda":
        return OffloadingConnector(pieces, host_tier)
    offload_stream, load_stream = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
    return OffloadingConnector(
        pieces, host_tier, [_CudaStagingBuffer(pieces, offload_stream, load_stream) for _ in range(in_flight)]
    )


def open_worker_tiers(first: OffloadingConnector, size: int) -> list[HostTier]:
    """The host tiers of the ranks from 1 on, for rank 0. Raises HostTierError."""
    whole = first.host_tier.identity.removesuffix(_share("", 0))
    host_tiers: list[HostTier] = []
    try:
        for rank in range(1, size):
            host_tiers.append(first.host_tier.open_sibling(_share(whole, rank)))
    except HostTierError:
        for host_tier in host_tiers:
            host_tier.close()
        raise
    return host_tiers


def _share(whole: str, rank: int) -> str:
    return f"{whole}-{rank}"


def identity(origin: KVOrigin, kv: KVCache) -> str:
    """A digest of weights, code and settings: engines with the same one compute equal keys and values for equal
    tokens."""
    model, files, arch, kernels, cache_key = origin
    digest = hashlib.blake2b(digest_size=16, key=cache_key[:64])
    engine = model.engine
    settings = engine.dtype, engine.keep_quantized, engine.deterministic, model.tensor_parallel_size
    tensors = kernels, str(kv.dtype), kv.device.type, kv.layout
    digest.update(repr((msgspec.to_builtins(arch), settings, tensors)).encode())
    paths = [files.path] if files.path.is_file() else sorted(files.path.iterdir())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    root = Path(__file__).parent.parent.parent
    for folder in CODE:
        for path in sorted((root / folder).rglob("*.[pchj]*")):
            if path.suffix in (".py", ".c", ".h", ".json"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
