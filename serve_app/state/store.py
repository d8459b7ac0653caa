"""The state store: bytes by owner and key, bounded in bytes and age; and the store in this process's memory."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec

from configs.schema import ApiConfig, ResumeConfig

__all__ = ["MemoryStore", "StateStore", "StoreLimits"]


class StoreLimits(msgspec.Struct, frozen=True):
    max_bytes: int  # of all owners
    max_owner_bytes: int  # of one owner
    age_s: float  # since the last put

    @classmethod
    def of(cls, api: ApiConfig) -> "StoreLimits":
        return cls(api.state_bytes, min(api.state_bytes, api.state_bytes_per_key), api.state_age_s)

    @classmethod
    def of_streams(cls, resume: ResumeConfig) -> "StoreLimits":
        return cls(resume.max_bytes, min(resume.max_bytes, resume.max_bytes_per_key), resume.age_s)


class StateStore(Protocol):
    """No owner sees what another one has. What is too old is gone; beyond the limits, the least recently used is.

    A put that returned is seen by every later get, also in other processes where the store is shared.
    """

    async def get(self, owner: str, key: str) -> bytes | None:
        """Raises Unavailable if the store cannot be reached, as do the others."""
        ...

    async def put(self, owner: str, key: str, data: bytes) -> None:
        """Keeps nothing if the data alone is more than the limits allow."""
        ...

    async def replace(self, owner: str, key: str, before: bytes, data: bytes) -> bool:
        """A put if what is kept is still `before`, else False: somebody else has changed it."""
        ...

    async def delete(self, owner: str, key: str) -> bool:
        """Whether it was there."""
        ...

    async def close(self) -> None: ...


class _Entry(msgspec.Struct):
    data: bytes
    put_s: float


class MemoryStore:
    """A StateStore of one process, and lost with it."""

    def __init__(self, limits: StoreLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()  # the least recently used first
        self._bytes: dict[str, int] = {}  # by owner
        self.num_bytes = 0

    async def get(self, owner: str, key: str) -> bytes | None:
        entry = self._entries.get((owner, key))
        if entry is None:
            return None
        if self._clock() - entry.put_s > self._limits.age_s:
            self._remove((owner, key))
            return None
        self._entries.move_to_end((owner, key))
        return entry.data

    async def put(self, owner: str, key: str, data: bytes) -> None:
        self._remove((owner, key))
        if len(data) > self._limits.max_owner_bytes:
            return
        self._entries[owner, key] = _Entry(data, self._clock())
        self._bytes[owner] = self._bytes.get(owner, 0) + len(data)
        self.num_bytes += len(data)
        while self._bytes[owner] > self._limits.max_owner_bytes:
            self._remove(next(name for name in self._entries if name[0] == owner))
        while self.num_bytes > self._limits.max_bytes:
            self._remove(next(iter(self._entries)))

    async def replace(self, owner: str, key: str, before: bytes, data: bytes) -> bool:
        if await self.get(owner, key) != before:
            return False
        await self.put(owner, key, data)
        return True

    async def delete(self, owner: str, key: str) -> bool:
        is_there = await self.get(owner, key) is not None
        self._remove((owner, key))
        return is_there

    async def close(self) -> None:
        pass

    def _remove(self, name: tuple[str, str]) -> None:
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        self.num_bytes -= len(entry.data)
        self._bytes[name[0]] -= len(entry.data)
        if not self._bytes[name[0]]:
            del self._bytes[name[0]]
