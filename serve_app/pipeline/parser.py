"""Request parser: the first half of every POST, from the socket to a prepared request and its model."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast

import msgspec
from fastapi import Request
from pydantic import BaseModel

from configs.schema import ApiConfig
from serve_app.api.requests import COSTLY_FIELDS
from serve_app.logs.request_record import RequestRecord, record_of, step
from serve_app.model.registry import Registry
from serve_app.model.text_model import TextModel
from serve_app.pipeline.auth import Authenticator
from serve_app.pipeline.preparation import Preparation, Prepare, prepare_inline
from serve_app.preparation.generate_request import Earlier, RequestContext, new_context
from serve_app.resumption.event_ids import LAST_HEADER, ResumePoint, new_stream_id, resume_point
from serve_app.resumption.records import Resumable, StreamRecord, StreamRecords
from serve_app.tenants.tenant import Tenant
from serve_app.transport.body import SMALL_BYTES, parse_object, read_body
from serve_app.transport.request_id import use_request_id
from serve_app.transport.session_id import session_id

__all__ = ["History", "ParsedRequest", "RequestParser"]

T = TypeVar("T")
F = TypeVar("F", bound=BaseModel)


# from a body and its tenant to what the body continues
History = Callable[[bytes, Tenant], Awaitable[Earlier]]


class ParsedRequest(msgspec.Struct, Generic[T]):
    prepared: T
    model: TextModel
    request_id: str  # the one that the client sees
    tenant: Tenant
    earlier: Earlier = Earlier()
    record: RequestRecord | None = None  # None: nothing is written about it
    resumable: Resumable | None = None  # None: its stream ends with its client's connection


class _Address(msgspec.Struct):
    """The fields of a body that are read before its preparation."""

    model: str | None = None
    request_id: str | None = None
    session_id: str | None = None


class RequestParser:
    def __init__(
        self,
        limits: ApiConfig,
        registry: Registry,
        auth: Authenticator,
        preparation: Preparation,
        records: StreamRecords,
    ) -> None:
        """`records`: of streams that can be resumed; those are not prepared again."""
        self._limits = limits
        self._records = records
        self._registry = registry
        self._auth = auth
        self._preparation = preparation

    async def parse(
        self, http: Request, kind: type[F], prepare: Prepare[F, T], history: History | None = None
    ) -> ParsedRequest[T]:
        """Reads, validates and prepares a request: a small plain one inline, any other in a worker process.

        history   finds what the body continues, for the context

        Raises RequestError, UnknownModel, Overloaded for the tenant's limits, 401 and 413; NotFound for a stream to
        resume that is not kept.
        """
        tenant = self._auth.tenant(http)
        tenant.begin_request()
        record = record_of(http)
        with step(record, "read_body"):
            data = await read_body(http, self._limits.max_body_bytes)
        resumable = await self._resumable(http, tenant, data)
        if resumable is not None and resumable.record is not None:
            return self._resumed(resumable, resumable.record, tenant, record)
        payload = parse_object(data) if len(data) <= SMALL_BYTES else None
        address = _address_in(data)
        model = self._registry.resolve(address.model or "")
        if record is not None:
            record.model = model.name
        request_id = use_request_id(http, address.request_id or "")
        session = session_id(http, address.session_id or "")
        context = await self._context(request_id, session, tenant, model)
        if history is not None:
            context = msgspec.structs.replace(context, earlier=await history(data, tenant))
        is_small = payload is not None and context.earlier.num_bytes <= SMALL_BYTES
        costly = (*COSTLY_FIELDS, *getattr(kind, "costly_fields", ()))
        if payload is not None and is_small and not any(payload.get(name) for name in costly):
            with step(record, "prepare", in_worker=False):
                prepared = prepare_inline(payload, kind, prepare, model, self._limits, context)
        else:
            with step(record, "prepare", in_worker=True):
                prepared = await self._preparation.prepared(data, kind, prepare, model, context)
        return ParsedRequest(prepared, model, request_id, tenant, context.earlier, record, resumable)

    async def remembered(self, tenant: Tenant, stream_id: str, path: str) -> ParsedRequest[Any]:
        """A request that an ingress has begun. Raises NotFound if it is no longer kept."""
        resumable = await self._records.find(tenant, ResumePoint(stream_id, header=LAST_HEADER), path, b"")
        assert resumable.record is not None, "else it is not found"
        return self._resumed(resumable, resumable.record, tenant, None)

    async def _resumable(self, http: Request, tenant: Tenant, body: bytes) -> Resumable | None:
        path, streams = http.url.path, self._records.config.streams
        point = resume_point(http.headers, path, tenant.seal_key) if streams != "off" else None
        if point is not None:
            with step(record_of(http), "resume", after_event=point.after):
                return await self._records.find(tenant, point, path, body)
        return await self._records.new(ResumePoint(new_stream_id()), path, body) if streams == "all" else None

    def _resumed(
        self, resumable: Resumable, kept: StreamRecord, tenant: Tenant, record: RequestRecord | None
    ) -> ParsedRequest[T]:
        prepared, model = cast("T", kept.unpacked()), self._registry.resolve(kept.model)
        if record is not None:
            record.model = model.name
        return ParsedRequest(prepared, model, kept.request_id, tenant, kept.earlier, record, resumable)

    async def _context(self, request_id: str, session: str, tenant: Tenant, model: TextModel) -> RequestContext:
        max_model_len = await self._registry.context_len(model)
        return new_context(
            request_id,
            max_model_len,
            session=session,
            tenant=tenant.name,
            cache_namespace=tenant.cache_namespace,
            seal_key=tenant.seal_key,
        )


def _address_in(data: bytes) -> _Address:
    """The address in a body; empty for an invalid body, whose error validation reports."""
    try:
        return msgspec.json.decode(data, type=_Address)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Address()
