"""Result cache: a repeated deterministic request gets the engine's recorded outputs.

Outputs are cached, not texts, so that streams and whole answers share them and every answer has its own id. The key
covers the engine's request, the text rules, tenant, cache_salt and the models' configuration.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256

import msgspec

from configs.schema import ApiConfig
from engine.types import EngineClient, GenerateRequest
from serve_app.generation.observer import StreamObserver
from serve_app.preparation.generate_request import PreparedRequest
from serve_app.result_cache.replay import ChunkRecorder, Chunks, ReplayClient

__all__ = ["CacheLookup", "ResultCache"]

decoder = msgspec.msgpack.Decoder(Chunks)


class CacheLookup(msgspec.Struct, frozen=True):
    """The client that answers a request, the observers to add, and whether it is a hit."""

    client: EngineClient
    observers: tuple[StreamObserver, ...] = ()
    headers: dict[str, str] = {}


class ResultCache:
    """An LRU cache, bounded in bytes and age."""

    def __init__(self, config: ApiConfig, fingerprint: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`fingerprint`: of the models' configuration."""
        self._max_bytes = config.result_cache_bytes
        self._age_s = config.result_cache_age_s
        self.fingerprint = fingerprint
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()  # key -> (time, outputs)
        self.num_bytes = 0

    def lookup(self, parts: Sequence[PreparedRequest], client: EngineClient, *, has_seed: bool) -> CacheLookup:
        """A replay on a hit; else the client, with an observer that caches the complete answer."""
        is_deterministic = has_seed or all(part.request.sampling.temperature == 0 for part in parts)
        if not self._max_bytes or not is_deterministic:
            return CacheLookup(client)
        key = self._key(parts)
        ids = [part.request.request_id for part in parts]
        data = self._find(key)
        if data is not None:
            return CacheLookup(ReplayClient(client, ids, decoder.decode(data)), (), {"X-Cache": "hit"})
        recorder = ChunkRecorder(ids, lambda chunks: self._keep(key, chunks))
        return CacheLookup(client, (recorder,), {"X-Cache": "miss"})

    def _key(self, parts: Sequence[PreparedRequest]) -> bytes:
        asked = [(_asked(part.request), part.rules) for part in parts]
        return sha256(msgspec.json.encode((self.fingerprint, asked), order="deterministic")).digest()

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
    """The request without the fields that do not affect its answer."""
    sampling = request.sampling
    if sampling.temperature == 0:
        sampling = msgspec.structs.replace(sampling, seed=0)
    return msgspec.structs.replace(request, request_id="", priority=0, session="", tenant="", sampling=sampling)
