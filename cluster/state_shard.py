"""A replica's shard of the state that outlives ingresses: versioned entries, bounded in bytes and age by owner."""

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

__all__ = ["Entry", "EntryName", "StateLimits", "StateShard"]

OVERHEAD_BYTES = 64  # of an entry, so that many empty ones are bounded too

EntryName = tuple[str, str, str]  # kind of state, owner, key


class StateLimits(msgspec.Struct, frozen=True, array_like=True):
    """Of one kind of state in one replica."""

    max_bytes: int  # of all owners
    max_owner_bytes: int
    age_s: float


class Entry(msgspec.Struct, frozen=True, array_like=True):
    version: int = 0  # grows with every change; 0: there is none
    put_s: float = 0.0  # unix seconds
    data: bytes = b""  # b"": it was deleted


class StateShard:
    """Beyond the limits, the least recently used entries go. Lives on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: OrderedDict[EntryName, Entry] = OrderedDict()  # the least recently used first
        self._limits: dict[str, StateLimits] = {}  # by kind
        self._bytes: dict[tuple[str, str], int] = {}  # by kind and owner
        self._kinds: dict[str, int] = {}  # bytes

    def get(self, name: EntryName) -> Entry:
        entry = self._entries.get(name, Entry())
        if entry.version and self._is_old(name, entry):
            self._remove(name)
            return Entry()
        if entry.version:
            self._entries.move_to_end(name)
        return entry

    def put(self, name: EntryName, entry: Entry, limits: StateLimits) -> bool:
        """Whether it is newer than what was there. Keeps nothing if it alone is more than the limits allow."""
        kind, owner, _ = name
        self._limits[kind] = limits
        if entry.version <= self.get(name).version:
            return False
        self._remove(name)
        if _size(entry) > min(limits.max_owner_bytes, limits.max_bytes):
            return True
        self._entries[name] = entry
        self._count(name, _size(entry))
        while self._bytes[kind, owner] > limits.max_owner_bytes:
            self._remove(next(other for other in self._entries if other[:2] == (kind, owner)))
        while self._kinds[kind] > limits.max_bytes:
            self._remove(next(other for other in self._entries if other[0] == kind))
        return True

    def versions(self, kind: str) -> list[tuple[str, str, int]]:
        """Owner, key and version of all entries of a kind, deleted ones too."""
        return [(owner, key, entry.version) for (of, owner, key), entry in self._entries.items() if of == kind]

    def _is_old(self, name: EntryName, entry: Entry) -> bool:
        return self._clock() - entry.put_s > self._limits[name[0]].age_s

    def _remove(self, name: EntryName) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._count(name, -_size(entry))

    def _count(self, name: EntryName, num_bytes: int) -> None:
        kind, owner, _ = name
        self._kinds[kind] = self._kinds.get(kind, 0) + num_bytes
        self._bytes[kind, owner] = self._bytes.get((kind, owner), 0) + num_bytes
        if not self._bytes[kind, owner]:
            del self._bytes[kind, owner]


def _size(entry: Entry) -> int:
    return len(entry.data) + OVERHEAD_BYTES
