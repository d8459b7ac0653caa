"""The first half of every POST: from the socket to checked fields and the model they mean."""

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import msgspec
from fastapi import Request
from pydantic import BaseModel

from configs.schema import ApiConfig
from serve_app.api.constraint_fields import ConstraintFields
from serve_app.api.limits import max_items
from serve_app.api.validation import validate
from serve_app.generation.request import Fresh, draw
from serve_app.http.auth import Authenticator
from serve_app.http.body import off_loop, parse_object, read_body
from serve_app.http.request_id import use_request_id
from serve_app.http.session_id import session_id
from serve_app.model.registry import Registry
from serve_app.model.text_model import TextModel
from serve_app.tenants.tenant import Tenant

__all__ = ["Intake", "Taken"]

SCHEMA_WEIGHT = 16  # a byte of a schema costs as much as so many of text

T = TypeVar("T")
F = TypeVar("F", bound=BaseModel)


# pure work on a request: template, tokens, limits. The last argument is how many tokens the engine takes
Prepare = Callable[[F, TextModel, ApiConfig, Fresh, int], T]


class Taken(msgspec.Struct, Generic[F, T]):
    fields: F
    model: TextModel
    prepared: T
    request_id: str  # as the client sees it
    tenant: Tenant


class Intake:
    def __init__(self, limits: ApiConfig, registry: Registry, auth: Authenticator) -> None:
        self._limits = limits
        self._auth = auth
        self._registry = registry

    async def take(self, http: Request, kind: type[F], prepare: Prepare[F, T]) -> Taken[F, T]:
        """Reads, checks and prepares a request; a large one in a thread.

        Raises RequestError, UnknownModel, Overloaded for the tenant's limits, 401 and 413.
        """
        tenant = self._auth.tenant(http)
        tenant.begin_request()
        data = await read_body(http, self._limits.max_body_bytes)
        lengths = max_items(self._limits)
        work: Callable[[], F] = lambda: validate(kind, parse_object(data), lengths)  # noqa: E731  # mypy needs the type
        fields = await off_loop(len(data), work)
        model = self._registry.resolve(getattr(fields, "model", ""))
        request_id = use_request_id(http, getattr(fields, "request_id", ""))
        tenant.check_priority(getattr(fields, "priority", 0))
        salt = tenant.cache_salt(getattr(fields, "cache_salt", None) or "")
        fresh = draw(request_id, session_id(http, getattr(fields, "session_id", "")), tenant.name, salt)
        context_len = await self._registry.context_len(model)
        size = len(data) * (SCHEMA_WEIGHT if _has_schema(fields) else 1)
        prepared = await off_loop(size, partial(prepare, fields, model, self._limits, fresh, context_len))
        return Taken(fields, model, prepared, request_id, tenant)


def _has_schema(fields: BaseModel) -> bool:
    return any(getattr(fields, name, None) for name in ("tools", "functions", *ConstraintFields.model_fields))
