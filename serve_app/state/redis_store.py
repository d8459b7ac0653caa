"""The state store in Redis, which all ingresses share and which outlives them."""

import logging
import time
from collections.abc import Awaitable
from hashlib import sha1, sha256
from typing import Any, TypeVar, cast

from engine.errors import Unavailable
from serve_app.state.store import StoreLimits

__all__ = ["RedisStore"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

TIMEOUT_S = 5.0  # of one call
RETRY_S = 2.0  # Retry-After while Redis cannot be reached

# KEYS: the entry, the owner's keys by last use, the owner's sizes. ARGV: key, data, now, most bytes, age.
# The total is one of the sizes, under an empty key. An entry of which Redis has let go is still counted until it is the
# least recently used one.
PUT = """
local function drop(key)
  local size = redis.call('HGET', KEYS[3], key)
  if not size then return end
  redis.call('HDEL', KEYS[3], key)
  redis.call('HINCRBY', KEYS[3], '', -size)
  redis.call('ZREM', KEYS[2], key)
end
drop(ARGV[1])
redis.call('DEL', KEYS[1])
local size, most, age = #ARGV[2], tonumber(ARGV[4]), ARGV[5]
if size > most then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', age)
redis.call('HSET', KEYS[3], ARGV[1], size)
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HINCRBY', KEYS[3], '', size)
local prefix = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[1])
while tonumber(redis.call('HGET', KEYS[3], '')) > most do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  redis.call('DEL', prefix .. oldest)
  drop(oldest)
end
redis.call('PEXPIRE', KEYS[2], age)
redis.call('PEXPIRE', KEYS[3], age)
return 1
"""
# ARGV[6]: SHA-1 of what is to be there still
REPLACE = (
    """
local before = redis.call('GET', KEYS[1])
if not before or redis.sha1hex(before) ~= ARGV[6] then return -1 end
"""
    + PUT
)
GET = """
local data = redis.call('GET', KEYS[1])
if data then redis.call('ZADD', KEYS[2], 'XX', ARGV[2], ARGV[1]) end
return data
"""
DELETE = """
local size = redis.call('HGET', KEYS[3], ARGV[1])
if size then
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('HINCRBY', KEYS[3], '', -size)
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return redis.call('DEL', KEYS[1])
"""


class RedisStore:
    """A StateStore. The bytes of all owners together are bounded by Redis' own maxmemory."""

    def __init__(self, url: str, limits: StoreLimits, kind: str = "responses") -> None:
        """Connects at the first call. Raises ModuleNotFoundError without the package redis.

        kind   of what is kept, under limits of its own
        """
        import redis.asyncio

        self._errors = (redis.exceptions.RedisError, OSError, TimeoutError)
        self._redis: Any = redis.asyncio.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        self._limits, self._kind = limits, kind
        scripts = (self._redis.register_script(text) for text in (PUT, REPLACE, GET, DELETE))
        self._put, self._replace, self._get, self._delete = scripts

    async def get(self, owner: str, key: str) -> bytes | None:
        arguments: list[Any] = [key, _now_ms()]
        return cast("bytes | None", await self._called(self._get(keys=self._names(owner, key), args=arguments)))

    async def put(self, owner: str, key: str, data: bytes) -> None:
        await self._called(self._put(keys=self._names(owner, key), args=self._put_arguments(key, data)))

    async def replace(self, owner: str, key: str, before: bytes, data: bytes) -> bool:
        arguments = [*self._put_arguments(key, data), sha1(before, usedforsecurity=False).hexdigest()]
        return bool(await self._called(self._replace(keys=self._names(owner, key), args=arguments)) >= 0)

    async def delete(self, owner: str, key: str) -> bool:
        return bool(await self._called(self._delete(keys=self._names(owner, key), args=[key])))

    async def close(self) -> None:
        await self._redis.aclose()

    def _put_arguments(self, key: str, data: bytes) -> list[Any]:
        limits = self._limits
        return [key, data, _now_ms(), limits.max_owner_bytes, max(1, int(1000 * limits.age_s))]

    def _names(self, owner: str, key: str) -> list[str]:
        """Redis' names: of one owner in one slot of a Redis cluster."""
        root = f"manta:{{{sha256(owner.encode()).hexdigest()[:32]}}}"
        if self._kind != "responses":
            root += f":{self._kind}"
        return [f"{root}:entry:{key}", f"{root}:used", f"{root}:sizes"]

    async def _called(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except self._errors as error:
            logger.warning("Redis, which keeps responses and streams, does not answer: %r", error)
            raise Unavailable("the store of responses does not answer", RETRY_S) from error


def _now_ms() -> int:
    return int(1000 * time.time())
