"""Kept responses and conversations: what is stored of them, and how they are continued."""

import asyncio
import re
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec

from engine.errors import RequestError
from serve_app.preparation.generate_request import Earlier
from serve_app.state.store import StateStore
from serve_app.tenants.tenant import Tenant
from serve_app.transport.errors import NotFound

__all__ = ["Conversation", "KeptResponse", "KeptResponses", "context_of"]

T = TypeVar("T")

RawItems = list[msgspec.Raw]
EMPTY = b"[]"
ITEM_ID = re.compile(rb'"(?:msg|rs|fc|ctc)_([\w.:-]{1,160})_\d{1,6}"')  # of an output item (document.py)
LONGEST_ID = 175  # bytes, with its quotes
MAX_REFERENCES = 256  # responses to whose items one input refers
PIECE_BYTES = 262_144  # of a body, searched at once: some 4 ms
LARGE_BYTES = 65_536  # packed in a thread, as it takes more than a millisecond


class KeptResponse(msgspec.Struct, kw_only=True):
    body: bytes  # the response object, as JSON
    input_items: bytes  # its own, as a JSON array
    context: bytes = EMPTY  # all items with which a next response begins, as a JSON array
    events: bytes = b""  # of a background stream
    is_background: bool = False
    stream_id: str = ""  # under which a background response's request is remembered

    @property
    def response(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


class Conversation(msgspec.Struct, kw_only=True):
    id: str
    created_at: int  # unix seconds
    metadata: dict[str, str] = {}
    items: bytes = EMPTY  # as a JSON array


class _References(msgspec.Struct):
    """The fields of a body by which it continues something."""

    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None


class _Item(msgspec.Struct):
    id: str


class KeptResponses:
    def __init__(self, store: StateStore) -> None:
        self._store = store
        # one change of a conversation at a time, within this ingress
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def history(self, body: bytes, tenant: Tenant) -> Earlier:
        """A History. Raises RequestError for a response that is not kept, NotFound for a conversation."""
        try:
            references = msgspec.json.decode(body, type=_References)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Earlier()  # validation reports it
        if references.previous_response_id and references.conversation is not None:
            return Earlier()  # the same
        return Earlier(await self._items_before(references, tenant), await self._referred(body, tenant))

    async def _items_before(self, references: _References, tenant: Tenant) -> bytes:
        if id_ := references.previous_response_id:
            kept = await self.response(tenant, id_)
            if kept is None or kept.context == EMPTY:
                message = f"previous_response_id: there is no response {id_[:256]!r} to continue"
                raise RequestError(message, param="previous_response_id")
            return kept.context
        conversation = references.conversation
        name = conversation.get("id") if isinstance(conversation, dict) else conversation
        return (await self.conversation(tenant, name)).items if isinstance(name, str) and name else b""

    async def _referred(self, body: bytes, tenant: Tenant) -> bytes:
        """The output items that an input may refer to by their ids, in which the id of their response is."""
        if b'"item_reference"' not in body:
            return b""
        items: dict[str, Any] = {}
        for base in await _bases_of(body):
            kept = await self.response(tenant, f"resp_{base}")
            items |= {item["id"]: item for item in (kept.response["output"] if kept is not None else ())}
        return msgspec.json.encode(items) if items else b""

    async def response(self, tenant: Tenant, id_: str) -> KeptResponse | None:
        return await self._get(tenant, f"response:{id_}", KeptResponse)

    async def put_response(self, tenant: Tenant, id_: str, kept: KeptResponse) -> None:
        await self._put(tenant, f"response:{id_}", kept)

    async def delete_response(self, tenant: Tenant, id_: str) -> bool:
        return await self._store.delete(tenant.name, f"response:{id_}")

    async def conversation(self, tenant: Tenant, id_: str) -> Conversation:
        """Raises NotFound."""
        found = await self._get(tenant, f"conversation:{id_}", Conversation)
        if found is None:
            raise NotFound(f"there is no conversation {id_[:256]!r}", param="conversation")
        return found

    async def put_conversation(self, tenant: Tenant, conversation: Conversation) -> None:
        """Of a new one."""
        await self._put(tenant, f"conversation:{conversation.id}", conversation)

    async def change_conversation(
        self, tenant: Tenant, id_: str, change: Callable[[Conversation], None]
    ) -> Conversation:
        """Changes what is kept; again, if another ingress has changed it meanwhile. Raises NotFound."""
        key = f"conversation:{id_}"
        lock = self._locks.setdefault((tenant.name, id_), asyncio.Lock())
        async with lock:
            while (before := await self._store.get(tenant.name, key)) is not None:
                found = await _unpacked(before, Conversation)
                change(found)
                if await self._store.replace(tenant.name, key, before, await _packed(found)):
                    return found
        raise NotFound(f"there is no conversation {id_[:256]!r}", param="conversation")

    async def delete_conversation(self, tenant: Tenant, id_: str) -> bool:
        return await self._store.delete(tenant.name, f"conversation:{id_}")

    async def extend_conversation(self, tenant: Tenant, id_: str, *items: bytes) -> None:
        """Adds JSON arrays of items, but those that it has: an answer that is generated again has the same ids. A
        conversation that is gone stays gone.
        """
        with suppress(NotFound):
            await self.change_conversation(tenant, id_, partial(_extend, items=items))

    async def mark(self, tenant: Tenant, kind: str, id_: str) -> None:
        """Tells other ingresses something of a background response (background.py)."""
        await self._store.put(tenant.name, f"{kind}:{id_}", str(time.time()).encode())

    async def marked_s(self, tenant: Tenant, kind: str, id_: str) -> float | None:
        """When it was marked, in unix seconds."""
        found = await self._store.get(tenant.name, f"{kind}:{id_}")
        return float(found) if found is not None else None

    async def renew(self, tenant: Tenant, id_: str, runner: str) -> bool:
        """Renews the lease of a background response, unless another runner has taken it."""
        key, now = f"alive:{id_}", f"{time.time()} {runner}".encode()
        before = await self._store.get(tenant.name, key)
        if before is None:
            await self._store.put(tenant.name, key, now)
            return True
        return before.endswith(runner.encode()) and await self._store.replace(tenant.name, key, before, now)

    async def take_over(self, tenant: Tenant, id_: str, runner: str, dead_s: float) -> bool:
        """Takes the lease of a background response if nobody has renewed it for so long; one of many gets it."""
        key, now_s = f"alive:{id_}", time.time()
        before = await self._store.get(tenant.name, key)
        if before is None:
            return await self.renew(tenant, id_, runner)
        if now_s - float(before.split()[0]) < dead_s:
            return False
        return await self._store.replace(tenant.name, key, before, f"{now_s} {runner}".encode())

    async def close(self) -> None:
        await self._store.close()

    async def _get(self, tenant: Tenant, key: str, kind: type[T]) -> T | None:
        data = await self._store.get(tenant.name, key)
        return await _unpacked(data, kind) if data is not None else None

    async def _put(self, tenant: Tenant, key: str, value: msgspec.Struct) -> None:
        await self._store.put(tenant.name, key, await _packed(value))


def context_of(history: bytes, input_items: bytes, response: dict[str, Any]) -> bytes:
    """All items with which a next response begins, as a JSON array."""
    return _concatenated(history or EMPTY, input_items, msgspec.json.encode(response["output"]))


async def _packed(value: msgspec.Struct) -> bytes:
    data = msgspec.msgpack.encode(value)
    return await asyncio.to_thread(zlib.compress, data, 1) if len(data) > LARGE_BYTES else zlib.compress(data, 1)


async def _unpacked(data: bytes, kind: type[T]) -> T:
    is_large = len(data) > LARGE_BYTES // 4  # packed
    unpacked = await asyncio.to_thread(zlib.decompress, data) if is_large else zlib.decompress(data)
    return msgspec.msgpack.decode(unpacked, type=kind)


def _extend(conversation: Conversation, items: tuple[bytes, ...]) -> None:
    known = {item.id for item in msgspec.json.decode(conversation.items, type=list[_Item])}
    new = [item for array in items for item in msgspec.json.decode(array, type=RawItems)]
    added = [item for item in new if msgspec.json.decode(item, type=_Item).id not in known]
    conversation.items = _concatenated(conversation.items, msgspec.json.encode(added))


async def _bases_of(body: bytes) -> list[str]:
    """What the ids of output items in a body have of their responses' ids, found by their form: nothing is parsed.
    Others go on between pieces.
    """
    bases: dict[str, None] = {}
    for start in range(0, len(body), PIECE_BYTES):
        for found in ITEM_ID.finditer(body, start, start + PIECE_BYTES + LONGEST_ID):
            bases[found[1].decode()] = None
            if len(bases) == MAX_REFERENCES:
                return list(bases)
        await asyncio.sleep(0)
    return list(bases)


def _concatenated(*arrays: bytes) -> bytes:
    return msgspec.json.encode([item for array in arrays for item in msgspec.json.decode(array, type=RawItems)])
