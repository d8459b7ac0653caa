"""The first half of every POST: from the socket to checked fields and the model they mean."""

from typing import Generic, TypeVar

import msgspec
from fastapi import Request
from pydantic import BaseModel

from configs.schema import ApiConfig
from serve_app.api.constraint_fields import ConstraintFields
from serve_app.generation.request import draw
from serve_app.http.auth import Authenticator
from serve_app.http.body import SMALL_BYTES, parse_object, read_body
from serve_app.http.preparation import Preparation, Prepare, prepared_here
from serve_app.http.request_id import use_request_id
from serve_app.http.session_id import session_id
from serve_app.model.registry import Registry
from serve_app.model.text_model import TextModel
from serve_app.tenants.tenant import Tenant

__all__ = ["Intake", "Taken"]

# fields whose cost is not that of their bytes: schemas, grammars, programs
COSTLY = ("tools", "functions", "chat_template", "chat_template_kwargs", *ConstraintFields.model_fields)

T = TypeVar("T")
F = TypeVar("F", bound=BaseModel)


class Taken(msgspec.Struct, Generic[F, T]):
    fields: F  # of a request that was prepared elsewhere without what was large
    model: TextModel
    prepared: T
    request_id: str  # as the client sees it
    tenant: Tenant


class _Address(msgspec.Struct):
    """What has to be known of a request before it is prepared."""

    model: str | None = None
    request_id: str | None = None
    session_id: str | None = None


class Intake:
    def __init__(self, limits: ApiConfig, registry: Registry, auth: Authenticator, preparation: Preparation) -> None:
        self._limits = limits
        self._registry = registry
        self._auth = auth
        self._preparation = preparation

    async def take(self, http: Request, kind: type[F], prepare: Prepare[F, T]) -> Taken[F, T]:
        """Reads, checks and prepares a request: a small plain one at once, any other in a worker process.

        Raises RequestError, UnknownModel, Overloaded for the tenant's limits, 401 and 413.
        """
        tenant = self._auth.tenant(http)
        tenant.begin_request()
        data = await read_body(http, self._limits.max_body_bytes)
        payload = parse_object(data) if len(data) <= SMALL_BYTES else None
        address = _address_in(data)
        model = self._registry.resolve(address.model or "")
        request_id = use_request_id(http, address.request_id or "")
        session = session_id(http, address.session_id or "")
        fresh = draw(request_id, session, tenant.name, tenant.cache_namespace)
        context_len = await self._registry.context_len(model)
        if payload is not None and not any(payload.get(name) for name in COSTLY):
            fields, prepared = prepared_here(payload, kind, prepare, model, self._limits, fresh, context_len)
        else:
            fields, prepared = await self._preparation.prepared(data, kind, prepare, model, fresh, context_len)
        tenant.check_priority(getattr(fields, "priority", 0))
        return Taken(fields, model, prepared, request_id, tenant)


def _address_in(data: bytes) -> _Address:
    """Of a body that is wrong nothing is known; what is wrong with it shows when it is checked."""
    try:
        return msgspec.json.decode(data, type=_Address)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Address()
