"""The state that replicas keep for ingresses: two copies, whichever replicas come and go."""

import asyncio

import pytest

from cluster import replica_store
from cluster.replica_store import ReplicaStore
from cluster.state_shard import StateLimits
from engine.errors import Unavailable
from tests.cluster.local import LocalCluster, local_cluster

LIMITS = StateLimits(1_000_000, 1_000_000, 60.0)
KEYS = [f"key-{number}" for number in range(30)]


def opened(cluster: LocalCluster) -> ReplicaStore:
    return cluster.client.store("kind", LIMITS)


def copies(cluster: LocalCluster) -> dict[str, int]:
    found = dict.fromkeys(KEYS, 0)
    for server in cluster.servers.values():
        for _, key, _ in server._state.versions("kind"):
            found[key] += 1
    return found


async def test_what_is_put_is_got_until_it_is_deleted() -> None:
    async with local_cluster(3) as cluster:
        store = opened(cluster)
        assert await store.get("a", "k") is None and not await store.delete("a", "k")
        await store.put("a", "k", b"one")
        await store.put("a", "k", b"two\xff")
        assert await store.get("a", "k") == b"two\xff" and await store.get("b", "k") is None
        assert await cluster.client.store("other", LIMITS).get("a", "k") is None
        assert not await store.replace("a", "k", b"one", b"three")
        assert await store.replace("a", "k", b"two\xff", b"three")
        assert await store.delete("a", "k") and not await store.delete("a", "k")
        assert await store.get("a", "k") is None and not await store.replace("a", "k", b"", b"four")
        await store.put("a", "k", b"five")
        assert await store.get("a", "k") == b"five"
        await store.close()


async def test_every_entry_has_two_copies_spread_over_the_replicas() -> None:
    async with local_cluster(4) as cluster:
        store = opened(cluster)
        for key in KEYS:
            await store.put("o", key, b"x")
        assert set(copies(cluster).values()) == {2}
        assert all(3 < len(server._state.versions("kind")) < 27 for server in cluster.servers.values())
        await store.close()


async def test_entries_survive_one_replica_after_the_other() -> None:
    async with local_cluster(3) as cluster:
        store = opened(cluster)
        for key in KEYS:
            await store.put("o", key, key.encode())
        for round_ in range(3):
            await cluster.kill(cluster.addresses[0])
            await cluster.add()
            await cluster.until_up(3)
            if round_ == 1:  # some are read at once
                assert [await store.get("o", key) for key in KEYS] == [key.encode() for key in KEYS]
            async with asyncio.timeout(30):
                while min(copies(cluster).values()) < 2:
                    await asyncio.sleep(0.05)
        assert [await store.get("o", key) for key in KEYS] == [key.encode() for key in KEYS]
        await store.close()


async def test_a_deleted_entry_stays_deleted_when_replicas_change() -> None:
    async with local_cluster(2) as cluster:
        store = opened(cluster)
        await store.put("o", KEYS[0], b"x")
        await store.delete("o", KEYS[0])
        await cluster.add()
        await cluster.until_up(3)
        await asyncio.sleep(2 * replica_store.REPAIR_S)
        await cluster.kill(cluster.addresses[0])
        assert await store.get("o", KEYS[0]) is None
        await store.close()


async def test_changes_of_two_ingresses_at_once_are_all_kept() -> None:
    async with local_cluster(2) as cluster:
        other = cluster.new_client()
        other.start()
        stores = [opened(cluster), other.store("kind", LIMITS)]
        while len(other._replicas["toy"].up) < 2:
            await asyncio.sleep(0.01)
        await stores[0].put("o", "list", b"-")

        async def add(store: ReplicaStore, what: bytes) -> None:
            while True:
                before = await store.get("o", "list")
                assert before is not None
                if await store.replace("o", "list", before, before + what):
                    return

        await asyncio.gather(*(add(stores[number % 2], b"%c" % (97 + number)) for number in range(16)))
        found = await stores[1].get("o", "list")
        assert found is not None and sorted(found[1:]) == list(range(97, 113))
        for store in stores:
            await store.close()
        await other.close()


async def test_a_replica_that_drains_gets_no_new_entries() -> None:
    async with local_cluster(3) as cluster:
        store = opened(cluster)
        leaving = next(iter(cluster.servers.values()))
        leaving.drain()
        await asyncio.sleep(0.05)
        for key in KEYS:
            await store.put("o", key, b"x")
        assert leaving._state.versions("kind") == [] and set(copies(cluster).values()) == {2}
        await store.close()


async def test_without_replicas_it_is_unavailable() -> None:
    async with local_cluster(1) as cluster:
        store = opened(cluster)
        await store.put("o", "k", b"x")
        await cluster.kill(cluster.addresses[0])
        with pytest.raises(Unavailable):
            await store.get("o", "k")
        with pytest.raises(Unavailable):
            await store.put("o", "k", b"x")
        await store.close()


async def test_what_fits_into_no_frame_is_not_kept() -> None:
    async with local_cluster(2) as cluster:
        store = opened(cluster)
        await store.put("o", "k", b"x" * cluster.wire.max_frame_bytes)
        assert await store.get("o", "k") is None
        await store.put("o", "k", b"x")
        assert await store.get("o", "k") == b"x"
        await store.close()
