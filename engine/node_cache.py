"""Blocks that the replicas of one node keep for each other, in memory of the host.

What a replica computes for a prefix another one finds here, and the next one after its death. Equal names mean equal
tokens before and in a block; that equal tokens mean equal keys and values is what `identity` is for: all that they
depend on is in it.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor

from configs.schema import ModelConfig
from engine.arena import WAYS, Arena, ArenaError
from engine.checkpoint.arch import ModelArch
from engine.checkpoint.source import ModelFiles
from engine.errors import ModelError
from engine.kv_store import KVStore
from engine.tensor_parallel import TensorParallel

__all__ = ["NodeCache", "identity", "open_node_cache", "open_others"]

log = logging.getLogger(__name__)

ON_THE_WAY = 32  # blocks between device and host at the same time
CODE = (
    "kernels",
    "engine/model",
    "engine/checkpoint",
)  # what decides how keys and values come about and lie in a block


class NodeCache:
    """The blocks of a KVStore, kept in an arena under their names."""

    def __init__(self, kv: KVStore, arena: Arena, passages: "Sequence[Passage]" = ()) -> None:
        """`passages` are where blocks stop on their way, if the device works on its own; nobody waits for it then."""
        self.arena = arena
        self._kv = kv
        self._leaving: deque[Passage] = deque()
        self._free = list(passages)
        self._passes = bool(passages)

    def holds(self, name: bytes) -> bool:
        return self.arena.holds(name)

    def load(self, name: bytes, block: int) -> bool:
        """Fills a block before all that is queued from now on. False: it is not there any more."""
        passage = self._passage() if self._passes else None
        with self.arena.reading(name) as piece:
            if piece is None:
                if passage is not None:
                    self._free.append(passage)
                return False
            here = self._kv.by_block[block] if passage is None else passage.here
            here.copy_(_as_block(piece, here))
        if passage is not None:
            self._kv.by_block[block].copy_(passage.here, non_blocking=True)
            passage.leave(b"")
            self._leaving.append(passage)
        return True

    def save(self, name: bytes, block: int) -> None:
        """Keeps a block as it is after all that is queued up to now, unless it is kept already."""
        if self.arena.holds(name):
            return
        if not self._passes:
            self._write(name, self._kv.by_block[block])
            return
        passage = self._passage()
        passage.here.copy_(self._kv.by_block[block], non_blocking=True)
        passage.leave(name)
        self._leaving.append(passage)

    def close(self) -> None:
        while self._leaving:
            self._arrive()
        self.arena.close()

    def _passage(self) -> "Passage":
        """One that is free. Those that have arrived become so, in order; only if none has, the oldest is waited for."""
        while self._leaving and (not self._free or self._leaving[0].has_arrived()):
            self._arrive()
        return self._free.pop()

    def _arrive(self) -> None:
        passage = self._leaving.popleft()
        name = passage.arrive()
        if name:
            self._write(name, passage.here)
        self._free.append(passage)

    def _write(self, name: bytes, values: Tensor) -> None:
        with self.arena.writing(name) as piece:
            if piece is not None:
                _as_block(piece, values).copy_(values)


class Passage(Protocol):
    """Memory for one block on its way to the device or from it."""

    here: Tensor

    def leave(self, name: bytes) -> None:
        """The copy has been queued. `name` is under what to keep the block; b"": it goes to the device."""
        ...

    def has_arrived(self) -> bool: ...

    def arrive(self) -> bytes:
        """Waits for it, and returns the name."""
        ...


class _CudaPassage:
    def __init__(self, kv: KVStore) -> None:
        block = kv.by_block[0]
        self.here = torch.empty(block.shape, dtype=block.dtype, pin_memory=True)
        self._event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._name = b""

    def leave(self, name: bytes) -> None:
        self._name = name
        self._event.record()

    def has_arrived(self) -> bool:
        arrived: bool = self._event.query()
        return arrived

    def arrive(self) -> bytes:
        self._event.synchronize()
        return self._name


def _as_block(piece: np.ndarray, block: Tensor) -> Tensor:
    return torch.from_numpy(piece).view(block.dtype).view(block.shape)


def open_node_cache(
    model: ModelConfig,
    files: ModelFiles,
    arch: ModelArch,
    kernels: str,
    kv: KVStore,
    cache_key: bytes,
    tp: TensorParallel | None = None,
) -> NodeCache | None:
    """None where the config gives it no memory, or the machine has not so much: an engine works without it.

    Of several ranks each has its part of the memory; `arch` is the whole model's.
    """
    tp = tp or TensorParallel()
    cache = model.engine.cache
    if not cache.node_bytes or not cache.prefix_sharing:
        return None
    piece_bytes = kv.by_block[0].numel() * kv.by_block.dtype.itemsize
    if cache.node_bytes < (least := WAYS * piece_bytes * tp.size):
        raise ModelError(f"engine.cache.node_bytes is {cache.node_bytes}; {WAYS} blocks of this model take {least}")
    whole = identity(model, files, arch, kernels, kv, cache_key)
    try:
        arena = Arena(_share(whole, tp.rank), piece_bytes, cache.node_bytes // tp.size)
    except ArenaError as error:
        log.warning("no blocks are kept for other replicas (engine.cache.node_bytes): %s", error)
        return None
    is_cuda = kv.by_block.device.type == "cuda"
    return NodeCache(kv, arena, [_CudaPassage(kv) for _ in range(ON_THE_WAY if is_cuda else 0)])


def open_others(first: NodeCache, size: int) -> list[Arena]:
    """What the ranks from 1 on have, for the first one. Raises ArenaError."""
    whole = first.arena.identity.removesuffix(_share("", 0))
    arenas: list[Arena] = []
    try:
        for rank in range(1, size):
            arenas.append(first.arena.beside(_share(whole, rank)))
    except ArenaError:
        for arena in arenas:
            arena.close()
        raise
    return arenas


def _share(whole: str, rank: int) -> str:
    return f"{whole}-{rank}"


def identity(
    model: ModelConfig, files: ModelFiles, arch: ModelArch, kernels: str, kv: KVStore, cache_key: bytes
) -> str:
    """Of weights, code and settings: engines with the same one compute the same keys and values for the same tokens."""
    digest = hashlib.blake2b(digest_size=16, key=cache_key[:64])
    engine = model.engine
    settings = engine.dtype, engine.keep_quantised, engine.deterministic, model.tensor_parallel
    tensors = kernels, str(kv.by_block.dtype), kv.by_block.device.type
    digest.update(repr((msgspec.to_builtins(arch), settings, tensors)).encode())
    paths = [files.path] if files.path.is_file() else sorted(files.path.iterdir())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    root = Path(__file__).parent.parent
    for folder in CODE:
        for path in sorted((root / folder).rglob("*.[pchj]*")):
            if path.suffix in (".py", ".c", ".h", ".json"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
