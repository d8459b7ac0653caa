"""What every store promises, each of them; Redis as a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from configs.schema import ApiConfig
from engine.errors import Unavailable
from serve_app.state.redis_store import RedisStore
from serve_app.state.store import MemoryStore, StateStore, StoreLimits
from tests.serve_app.state.redis_server import needs_redis, redis_server

LIMITS = StoreLimits(max_bytes=1_000, max_owner_bytes=100, age_s=60.0)
KINDS = ["memory", pytest.param("redis", marks=needs_redis)]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
def open_store(request):
    """A store of a kind, with a clean start."""

    @asynccontextmanager
    async def opened(kind: str, limits: StoreLimits = LIMITS) -> AsyncIterator[StateStore]:
        if kind == "memory":
            yield MemoryStore(limits)
            return
        store = RedisStore(request.getfixturevalue("url"), limits)
        await store._redis.flushall()
        try:
            yield store
        finally:
            await store.close()

    return opened


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_put_is_got_until_it_is_deleted(open_store, kind):
    async with open_store(kind) as store:
        assert await store.get("a", "k") is None
        await store.put("a", "k", b"\x00one")
        await store.put("a", "k", b"two\xff")
        assert await store.get("a", "k") == b"two\xff"
        assert await store.delete("a", "k") and not await store.delete("a", "k")
        assert await store.get("a", "k") is None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_somebody_else_has_changed_is_not_replaced(open_store, kind):
    async with open_store(kind) as store:
        assert not await store.replace("a", "k", b"", b"new") and await store.get("a", "k") is None
        await store.put("a", "k", b"one\xff")
        assert await store.replace("a", "k", b"one\xff", b"two") and await store.get("a", "k") == b"two"
        assert not await store.replace("a", "k", b"one\xff", b"three") and await store.get("a", "k") == b"two"


@pytest.mark.parametrize("kind", KINDS)
async def test_no_owner_sees_what_another_one_has(open_store, kind):
    async with open_store(kind) as store:
        await store.put("a", "k", b"secret")
        await store.put("a:entry", "k", b"other")
        assert (
            await store.get("b", "k") is None and not await store.delete("b", "k") and not await store.delete("", "k")
        )
        assert await store.get("a", "k") == b"secret"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_least_recently_used_of_an_owner_is_dropped(open_store, kind):
    async with open_store(kind) as store:
        for key in "abc":
            await store.put("o", key, b"x" * 30)
            await asyncio.sleep(0.003)
        assert await store.get("o", "a") is not None
        await asyncio.sleep(0.003)
        await store.put("o", "d", b"x" * 30)
        assert [key for key in "abcd" if await store.get("o", key)] == ["a", "c", "d"]
        await store.put("other", "k", b"y" * 100)
        assert await store.get("o", "a") is not None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_put_again_counts_once(open_store, kind):
    async with open_store(kind) as store:
        for _ in range(20):
            await store.put("o", "a", b"x" * 60)
        await store.put("o", "b", b"x" * 40)
        assert await store.get("o", "a") and await store.get("o", "b")
        await store.delete("o", "a")
        await store.put("o", "c", b"x" * 60)
        assert await store.get("o", "b") and await store.get("o", "c")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_too_large_is_not_kept_and_drops_nothing_else(open_store, kind):
    async with open_store(kind) as store:
        await store.put("o", "a", b"x" * 50)
        await store.put("o", "b", b"x" * 101)
        assert await store.get("o", "b") is None and await store.get("o", "a") is not None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_too_old_is_gone(open_store, kind):
    async with open_store(kind, StoreLimits(1_000, 100, age_s=0.15)) as store:
        await store.put("o", "a", b"x")
        assert await store.get("o", "a") == b"x"
        await asyncio.sleep(0.3)
        assert await store.get("o", "a") is None


@needs_redis
async def test_kinds_of_state_have_limits_of_their_own(url):
    stores = [RedisStore(url, LIMITS, kind) for kind in ("responses", "streams")]
    for store in stores:
        await store.put("kinds", "k", store._kind.encode() * 10)
    assert [await store.get("kinds", "k") for store in stores] == [b"responses" * 10, b"streams" * 10]
    for store in stores:
        await store.close()


async def test_all_owners_together_are_bounded_in_memory():
    store = MemoryStore(LIMITS)
    for owner in range(20):
        await store.put(str(owner), "k", b"x" * 100)
    assert store.num_bytes == 1_000
    assert [owner for owner in range(20) if await store.get(str(owner), "k")] == list(range(10, 20))


@needs_redis
async def test_a_redis_that_has_died_is_an_unavailable_store(tmp_path):
    with redis_server(tmp_path) as url:
        store = RedisStore(url, LIMITS)
        await store.put("o", "a", b"x")
    with pytest.raises(Unavailable):
        await store.get("o", "a")
    await store.close()


def test_an_owner_gets_no_more_than_there_is():
    assert StoreLimits.of(ApiConfig(state_bytes=10, state_bytes_per_key=100)) == StoreLimits(10, 10, 2_592_000.0)
