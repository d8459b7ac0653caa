"""The state store that replicas keep for all ingresses: two copies of each entry, placed by rendezvous hashing."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from hashlib import blake2b
from typing import Any

from cluster.link import Health, Link, ReplicaLost
from cluster.state_shard import Entry, EntryName, StateLimits
from engine.errors import Unavailable

__all__ = ["ReplicaStore"]

logger = logging.getLogger(__name__)

NUM_COPIES = 2
NUM_LOOKED = 5  # replicas that are asked for an entry which is not at its own
MAX_TRIES = 8  # of a put, each after another writer's
REPAIR_S = 1.0  # from a change of the replicas until entries get their copies back
RETRY_S = 2.0  # Retry-After while no replica answers


class ReplicaStore:
    """One kind of state. An entry's first replica orders its changes, by versions; the second one follows.

    `links`: to all replicas now. A copy that is missing, because replicas have come or gone, is made when its entry is
    read, and for all entries soon after the change.
    """

    def __init__(self, links: Callable[[], Sequence[Link]], kind: str, limits: StateLimits) -> None:
        self._links, self._kind, self._limits = links, kind, limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None  # from the first call on

    async def get(self, owner: str, key: str) -> bytes | None:
        """Raises Unavailable, as do the others."""
        return (await self._newest((self._kind, owner, key))).data or None

    async def put(self, owner: str, key: str, data: bytes) -> None:
        name = self._kind, owner, key
        for _ in range(MAX_TRIES):
            newest = await self._newest(name)
            if await self._write(name, newest.version + 1, data):
                return
        raise Unavailable("an entry is changed by too many at once", RETRY_S)

    async def replace(self, owner: str, key: str, before: bytes, data: bytes) -> bool:
        name = self._kind, owner, key
        newest = await self._newest(name)
        return newest.data == before and bool(before) and await self._write(name, newest.version + 1, data)

    async def delete(self, owner: str, key: str) -> bool:
        name = self._kind, owner, key
        newest = await self._newest(name)
        return bool(newest.data) and await self._write(name, newest.version + 1, b"")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _newest(self, name: EntryName) -> Entry:
        if self._keeper is None:
            self._keeper = self._begin(self._keep_copies())
        ranked, leaving = self._ranked(name)
        copies, others = ranked[:NUM_COPIES], [*ranked[NUM_COPIES:NUM_LOOKED], *leaving]
        found = await self._fetched(name, copies)
        newest = max(found.values(), key=_version)
        if not newest.version and others:
            newest = max([newest, *(await self._fetched(name, others, may_fail=True)).values()], key=_version)
        for link, entry in found.items():
            if entry.version < newest.version:
                self._begin(self._copy(link, name, newest))
        return newest

    async def _fetched(self, name: EntryName, links: Sequence[Link], *, may_fail: bool = False) -> dict[Link, Entry]:
        """What those that answer have. Raises Unavailable if none does."""
        answers = await asyncio.gather(*(link.fetch(name) for link in links), return_exceptions=True)
        found = {link: one for link, one in zip(links, answers, strict=True) if isinstance(one, Entry)}
        if not found and not may_fail:
            raise Unavailable("no replica that keeps state answers", RETRY_S)
        return found

    async def _write(self, name: EntryName, version: int, data: bytes) -> bool:
        """False if another writer was first."""
        entry = Entry(version, time.time(), data)
        first, *others = (await self._answering(name))[:NUM_COPIES]
        try:
            if not await first.keep(name, entry, self._limits):
                return False
        except ReplicaLost:
            if not others:
                raise
        await asyncio.gather(*(self._copy(link, name, entry) for link in others))
        return True

    async def _answering(self, name: EntryName) -> list[Link]:
        ranked, _ = self._ranked(name)
        if not ranked:
            raise Unavailable("no replica that keeps state is up", RETRY_S)
        return ranked

    async def _copy(self, link: Link, name: EntryName, entry: Entry) -> None:
        try:
            await link.keep(name, entry, self._limits)
        except ReplicaLost as lost:
            logger.info("an entry has one copy less: %s", lost)

    def _ranked(self, name: EntryName) -> tuple[list[Link], list[Link]]:
        """The replicas that may have it, its own first; and those that are going away."""
        alive = [link for link in self._links() if link.health is not Health.DEAD]
        staying = [link for link in alive if not link.is_draining]
        text = "\0".join(name)

        def weight(link: Link) -> bytes:
            return blake2b(f"{link.replica_id}\0{text}".encode(), digest_size=8).digest()

        return sorted(staying, key=weight), [link for link in alive if link.is_draining]

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_copies(self) -> None:
        """Copies entries to the replicas that should have them, after each change of the replicas."""
        known: frozenset[str] = frozenset()
        while True:
            await asyncio.sleep(REPAIR_S * (0.5 + random.random()))  # not all ingresses at once
            replicas = frozenset(link.replica_id for link in self._ranked(("", "", ""))[0])
            if replicas == known:
                continue
            try:
                await self._copy_all()
                known = replicas
            except ReplicaLost as lost:
                logger.info("entries are copied again: %s", lost)

    async def _copy_all(self) -> None:
        """Raises ReplicaLost."""
        holders: dict[EntryName, dict[Link, int]] = {}
        for link in (link for links in self._ranked(("", "", "")) for link in links):
            for owner, key, version in await link.versions(self._kind):
                holders.setdefault((self._kind, owner, key), {})[link] = version
        for name, versions in holders.items():
            newest = max(versions.values())
            lacking = [link for link in self._ranked(name)[0][:NUM_COPIES] if versions.get(link, 0) < newest]
            if lacking:
                holder = max(versions, key=lambda link: versions[link])
                entry = await holder.fetch(name)
                for link in lacking:
                    await link.keep(name, entry, self._limits)


def _version(entry: Entry) -> int:
    return entry.version
