"""Preparation in worker processes: from a body's bytes to a prepared request, under limits of CPU time and memory.

The client chooses the cost, so all but small plain requests are prepared in a worker process (serve_app/workers). The
same code runs inline and in workers.
"""

import pickle
from collections.abc import Callable, Mapping
from hashlib import sha256
from importlib import import_module
from typing import Any, TypeVar, cast

import msgspec
from pydantic import BaseModel

from configs.schema import ApiConfig
from engine.errors import ContextTooLong, RequestError
from serve_app.api.validation import max_items, validate
from serve_app.model.text_model import TextModel
from serve_app.preparation.generate_request import RequestContext
from serve_app.transport.body import parse_object
from serve_app.workers import values
from serve_app.workers.frames import function_at, name_of
from serve_app.workers.pool import LimitExceeded, WorkerPool

__all__ = ["Preparation", "Prepare", "load", "prepare_task", "prepare_inline"]

T = TypeVar("T")
F = TypeVar("F", bound=BaseModel)

# an adapter's pure function from its wire model to a prepared request, all that a worker sends back
Prepare = Callable[[F, TextModel, ApiConfig, RequestContext], T]


class _Task(msgspec.Struct, frozen=True, array_like=True):
    body: bytes
    kind: str  # the wire model, as module:name
    prepare: str  # as module:name
    context: RequestContext


class _Fault(msgspec.Struct, frozen=True):
    message: str
    param: str | None
    is_too_long: bool


class _Loaded(msgspec.Struct, frozen=True):
    model: TextModel
    limits: ApiConfig


def prepare_inline(
    payload: dict[str, Any],
    kind: type[F],
    prepare: Prepare[F, T],
    model: TextModel,
    limits: ApiConfig,
    context: RequestContext,
) -> T:
    """Validates the fields and calls `prepare`. Raises RequestError."""
    return prepare(validate(kind, payload, max_items(limits)), model, limits, context)


class Preparation:
    """Prepares requests in worker processes."""

    def __init__(
        self, limits: ApiConfig, models: Mapping[str, TextModel], workers: WorkerPool, modules: tuple[str, ...]
    ) -> None:
        """`modules`: those of all `prepare` functions, which the fork server imports."""
        self._workers = workers
        # workers get no API keys
        limits = msgspec.structs.replace(limits, api_keys=())
        self._keys = {name: self._share(_Loaded(model, limits), modules) for name, model in models.items()}

    async def prepared(
        self,
        body: bytes,
        kind: type[F],
        prepare: Prepare[F, T],
        model: TextModel,
        context: RequestContext,
    ) -> T:
        """As `prepare_inline`. Raises RequestError also beyond the limits of time and memory."""
        task = _Task(body, name_of(kind), name_of(prepare), context)
        data = msgspec.msgpack.encode(task)
        try:
            answer = await self._workers.run(name_of(prepare_task), self._keys[model.name], data)
        except LimitExceeded as limit:
            raise RequestError(f"to prepare this request {limit}; make it smaller or simpler") from None
        outcome = values.loads(answer)
        if isinstance(outcome, _Fault):
            raise (ContextTooLong if outcome.is_too_long else RequestError)(outcome.message, outcome.param)
        return cast("T", outcome)

    def _share(self, loaded: _Loaded, modules: tuple[str, ...]) -> str:
        data = pickle.dumps((loaded, modules))
        key = sha256(data).hexdigest()
        self._workers.share(key, name_of(load), data)
        return key


def load(data: bytes) -> _Loaded:
    """Runs in the fork server, on the ingress's own data."""
    loaded, modules = pickle.loads(data)
    for module in modules:
        import_module(module)
    return cast("_Loaded", loaded)


def prepare_task(loaded: _Loaded, data: bytes) -> bytes:
    """Runs in a worker: from a _Task to the prepared request, or to a _Fault."""
    task = msgspec.msgpack.decode(data, type=_Task)
    kind, prepare = function_at(task.kind), function_at(task.prepare)
    try:
        payload = parse_object(task.body)
        prepared = prepare_inline(payload, kind, prepare, loaded.model, loaded.limits, task.context)
    except RequestError as error:
        return values.dumps(_Fault(str(error), error.param, isinstance(error, ContextTooLong)))
    except RecursionError:
        return values.dumps(_Fault("this request nests too deeply", None, is_too_long=False))
    return values.dumps(prepared)
