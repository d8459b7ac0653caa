"""The records of resumable streams: all that a second run needs to give the same events, in the state store."""

import asyncio
import logging
from hashlib import sha256
from typing import Any

import msgspec

from configs.schema import ResumeConfig
from engine.errors import MantaError, RequestError
from serve_app.preparation.generate_request import Earlier, PreparedAnswer
from serve_app.resumption.event_ids import LAST_HEADER, ResumePoint
from serve_app.state.store import StateStore
from serve_app.tenants.sealing import open_bytes, seal_bytes
from serve_app.tenants.tenant import Tenant
from serve_app.transport.errors import NotFound
from serve_app.workers import values

__all__ = ["Resumable", "StreamFacts", "StreamRecord", "StreamRecords"]

LARGE_BYTES = 65_536  # hashed, packed and encrypted in a thread, as it takes more than a millisecond

logger = logging.getLogger(__name__)


class StreamRecord(msgspec.Struct, frozen=True):
    """A request as it was when its first run began."""

    path: str  # of its route
    digest: bytes  # of its body
    model: str
    request_id: str  # the one that the client sees
    created: int  # unix seconds
    fingerprint: str
    prepared: bytes  # a PreparedAnswer (workers/values.py), with the seed that the server drew
    earlier: Earlier = Earlier()

    @staticmethod
    def packed(prepared: PreparedAnswer) -> bytes:
        return values.dumps(prepared)

    def unpacked(self) -> Any:
        """The PreparedAnswer. Raises NotFound for one that another version of this server has prepared."""
        try:
            return values.loads(self.prepared)
        except Exception as error:
            logger.warning("the record of a stream cannot be read: %r", error)
            raise _missing() from None


class StreamFacts(msgspec.Struct):
    """What a run found, and what later ones are to say too."""

    runner: str = ""  # the ingress that has begun the last run
    cached: dict[str, int] = {}  # tokens, by the engine's request: several prompts have one each
    completed: int | None = None  # unix seconds
    num_events: int | None = None  # None: no run has come to the end


class Resumable(msgspec.Struct):
    """One request of a stream that can be resumed."""

    point: ResumePoint
    path: str
    digest: bytes
    record: StreamRecord | None = None  # None: the stream is new
    facts: StreamFacts = msgspec.field(default_factory=StreamFacts)

    @property
    def has_all(self) -> bool:
        """Whether the client has the whole stream."""
        return self.facts.num_events is not None and self.point.after >= self.facts.num_events - 1


class StreamRecords:
    """A record is sealed with its tenant's key: nobody else can read or forge what the store has of a request."""

    def __init__(self, store: StateStore, config: ResumeConfig) -> None:
        self._store, self.config = store, config

    async def find(self, tenant: Tenant, point: ResumePoint, path: str, body: bytes) -> Resumable:
        """Raises NotFound for a Last-Event-ID of a stream that is not kept, RequestError for another body than the
        stream's; a request that names its stream by Last-Event-ID may come without a body.
        """
        resumable = Resumable(point, path, await _digest(body))
        record = await self._record(tenant, f"stream:{point.stream_id}")
        if record is None or record.path != path:
            if point.header == LAST_HEADER:
                raise _missing()
            return resumable
        if record.digest != resumable.digest and (body or point.header != LAST_HEADER):
            message = f"{point.header}: its stream answers another body; repeat that body, or send another key"
            raise RequestError(message, param=point.header)
        facts = await self._facts(tenant, point.stream_id) or StreamFacts()
        if facts.num_events is not None and point.after >= facts.num_events:
            raise _missing()
        resumable.record, resumable.facts = record, facts
        return resumable

    async def new(self, point: ResumePoint, path: str, body: bytes) -> Resumable:
        """Of a stream that nobody has named."""
        return Resumable(point, path, await _digest(body))

    async def remember(self, tenant: Tenant, stream_id: str, record: StreamRecord) -> None:
        """Raises Unavailable."""
        name, data, key = f"stream:{stream_id}", msgspec.msgpack.encode(record), tenant.seal_key
        is_large = len(data) > LARGE_BYTES
        sealed = await asyncio.to_thread(seal_bytes, data, key, name) if is_large else seal_bytes(data, key, name)
        await self._store.put(tenant.name, name, sealed)

    async def note(self, tenant: Tenant, stream_id: str, facts: StreamFacts) -> None:
        """A store that cannot be reached is logged: the stream itself goes on."""
        try:
            await self._store.put(tenant.name, f"facts:{stream_id}", msgspec.msgpack.encode(facts))
        except MantaError as error:
            logger.warning("facts of a stream could not be kept: %s", error)

    async def is_run_by(self, runner: str, tenant: Tenant, stream_id: str) -> bool:
        """Whether an ingress has begun the last run of a stream that is still kept; True while nobody knows."""
        try:
            facts = await self._facts(tenant, stream_id)
        except MantaError:
            return True
        return facts is not None and facts.runner == runner

    async def forget(self, tenant: Tenant, stream_id: str) -> None:
        """Raises NotFound."""
        is_kept = await self._store.delete(tenant.name, f"stream:{stream_id}")
        await self._store.delete(tenant.name, f"facts:{stream_id}")
        if not is_kept:
            raise NotFound(f"there is no stream {stream_id[:256]!r}", param="stream_id")

    async def close(self) -> None:
        await self._store.close()

    async def _record(self, tenant: Tenant, name: str) -> StreamRecord | None:
        sealed = await self._store.get(tenant.name, name)
        if sealed is None:
            return None
        is_large = len(sealed) > LARGE_BYTES // 4  # packed
        key = tenant.seal_key
        data = await asyncio.to_thread(open_bytes, sealed, key) if is_large else open_bytes(sealed, key)
        return msgspec.msgpack.decode(data, type=StreamRecord) if data is not None else None

    async def _facts(self, tenant: Tenant, stream_id: str) -> StreamFacts | None:
        data = await self._store.get(tenant.name, f"facts:{stream_id}")
        return msgspec.msgpack.decode(data, type=StreamFacts) if data is not None else None


async def _digest(body: bytes) -> bytes:
    digest = sha256(body) if len(body) <= LARGE_BYTES else await asyncio.to_thread(sha256, body)
    return digest.digest()


def _missing() -> NotFound:
    message = (
        f"{LAST_HEADER}: there is no such stream, or no longer (api.resume.age_s); send the id of an event of a stream "
        "of this API key and route, or the request without it"
    )
    return NotFound(message, param=LAST_HEADER)
