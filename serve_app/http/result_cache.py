"""Answers that are known: a deterministic request that comes again gets what the engine said before.

What is kept is the engine's chunks, so that streams and whole answers share them and every answer has its own id. Two
requests are the same if everything is that the engine is asked and that turns its tokens into text, if they come
from one tenant under one cache_salt, and if the models are configured alike.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import cast

import msgspec

from configs.schema import ApiConfig
from engine.types import EngineClient, EngineStatus, GenerateRequest, RequestOutput
from serve_app.generation.choice import Delta
from serve_app.generation.reply import Usage
from serve_app.generation.request import Prepared
from serve_app.http.answer import Run

__all__ = ["ResultCache"]

Chunks = list[tuple[int, RequestOutput]]  # which of the requests that are answered together, and what it got
Headers = dict[str, str]
decoder = msgspec.msgpack.Decoder(Chunks)


class ResultCache:
    """Bounded in bytes and age; what was used last stays longest."""

    def __init__(self, config: ApiConfig, identity: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`identity` tells configurations of models apart."""
        self._max_bytes = config.result_cache_bytes
        self._age_s = config.result_cache_age_s
        self._identity = identity
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()  # key -> made at, chunks
        self.num_bytes = 0

    def run(self, parts: Sequence[Prepared], run: Run, *, has_seed: bool) -> tuple[Run, Headers]:
        """The run, answered from the cache or noted there when it is complete, and what the answer's head says."""
        is_deterministic = has_seed or all(part.request.sampling.temperature == 0 for part in parts)
        if not self._max_bytes or not is_deterministic:
            return run, {}
        key = self._key(parts)
        ids = [part.request.request_id for part in parts]
        data = self._find(key)
        if data is not None:
            return _Replayed(run, ids, decoder.decode(data)), {"X-Cache": "hit"}
        return _Noted(run, ids, lambda chunks: self._keep(key, chunks)), {"X-Cache": "miss"}

    def _key(self, parts: Sequence[Prepared]) -> bytes:
        asked = [(_asked(part.request), part.rules) for part in parts]
        return sha256(msgspec.json.encode((self._identity, asked), order="deterministic")).digest()

    def _find(self, key: bytes) -> bytes | None:
        made_s, data = self._known.get(key, (0.0, b""))
        if not data:
            return None
        if self._clock() - made_s > self._age_s:
            self._forget(key)
            return None
        self._known.move_to_end(key)
        return data

    def _keep(self, key: bytes, chunks: Chunks) -> None:
        data = msgspec.msgpack.encode(chunks)
        self._forget(key)
        if len(data) > self._max_bytes:
            return
        self._known[key] = self._clock(), data
        self.num_bytes += len(data)
        while self.num_bytes > self._max_bytes:
            self._forget(next(iter(self._known)))

    def _forget(self, key: bytes) -> None:
        _, data = self._known.pop(key, (0.0, b""))
        self.num_bytes -= len(data)


def _asked(request: GenerateRequest) -> GenerateRequest:
    """The request without what its answer does not depend on."""
    sampling = request.sampling
    if sampling.temperature == 0:
        sampling = msgspec.structs.replace(sampling, seed=0)
    return msgspec.structs.replace(request, request_id="", priority=0, session="", tenant="", sampling=sampling)


class _Wrapped:
    """A run whose engine is another."""

    def __init__(self, run: Run, ids: Sequence[str]) -> None:
        self._run, self._ids = run, ids

    def usage(self) -> Usage:
        return self._run.usage()

    def usage_of(self, index: int) -> Usage:
        return self._run.usage_of(index)


class _Noted(_Wrapped):
    """Tells what it got, once it is complete."""

    def __init__(self, run: Run, ids: Sequence[str], keep: Callable[[Chunks], None]) -> None:
        super().__init__(run, ids)
        self._keep = keep

    async def deltas(self, client: EngineClient) -> AsyncIterator[Delta]:
        listening = _Listening(client, self._ids)
        is_whole = True
        async with aclosing(cast("AsyncGenerator[Delta]", self._run.deltas(listening))) as deltas:
            async for delta in deltas:
                is_whole = is_whole and delta.finish_reason != "abort"
                yield delta
        if is_whole:
            self._keep(listening.chunks)


class _Replayed(_Wrapped):
    """Gets what another run got."""

    def __init__(self, run: Run, ids: Sequence[str], chunks: Chunks) -> None:
        super().__init__(run, ids)
        self._chunks = chunks

    def deltas(self, client: EngineClient) -> AsyncIterator[Delta]:
        return self._run.deltas(_Remembering(client, self._ids, self._chunks))


class _Listening:
    """An engine client whose chunks are noted."""

    def __init__(self, client: EngineClient, ids: Sequence[str]) -> None:
        self._client, self._ids = client, ids
        self.chunks: Chunks = []

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        place = self._ids.index(request.request_id)
        async with aclosing(cast("AsyncGenerator[RequestOutput]", self._client.generate(request))) as chunks:
            async for chunk in chunks:
                self.chunks.append((place, msgspec.structs.replace(chunk, request_id="", num_migrations=0)))
                yield chunk

    def stop_choice(self, request_id: str, index: int) -> None:
        self._client.stop_choice(request_id, index)

    async def status(self, model: str) -> EngineStatus:
        return await self._client.status(model)


class _Remembering:
    """An engine client that knows all its answers."""

    def __init__(self, client: EngineClient, ids: Sequence[str], chunks: Chunks) -> None:
        self._client, self._ids, self._chunks = client, ids, chunks

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        place = self._ids.index(request.request_id)
        for of, chunk in self._chunks:
            if of == place:
                yield msgspec.structs.replace(chunk, request_id=request.request_id)

    def stop_choice(self, request_id: str, index: int) -> None:
        """Nothing runs."""

    async def status(self, model: str) -> EngineStatus:
        return await self._client.status(model)
