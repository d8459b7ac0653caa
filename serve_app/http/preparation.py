"""From a body's bytes to what the engine is asked: parsed, validated, rendered, tokenized, and held to its limits.

A client chooses what this costs, so all but small plain requests are prepared in a worker process that is limited in
CPU time and memory (serve_app/workers). The same code runs in both places.
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
from serve_app.api.limits import max_items
from serve_app.api.validation import validate
from serve_app.generation.request import Fresh
from serve_app.http.body import parse_object
from serve_app.model.text_model import TextModel
from serve_app.workers import values
from serve_app.workers.frames import function_at, name_of
from serve_app.workers.pool import LimitExceeded, WorkerPool

__all__ = ["Preparation", "Prepare", "load", "prepare_task", "prepared_here"]

T = TypeVar("T")
F = TypeVar("F", bound=BaseModel)

# pure work on a request: template, tokens, limits. The last argument is how many tokens the engine takes
Prepare = Callable[[F, TextModel, ApiConfig, Fresh, int], T]

# fields that no answer needs once a request is prepared; most of a large body is in one of them
LARGE = ("messages", "prompt", "tools", "functions", "documents", "tokens", "chat_template")


class _Task(msgspec.Struct, frozen=True, array_like=True):
    body: bytes
    kind: str  # the wire model, as module:name
    prepare: str  # as module:name
    fresh: Fresh
    max_model_len: int


class _Fault(msgspec.Struct, frozen=True):
    message: str
    param: str | None
    is_too_long: bool


class _Loaded(msgspec.Struct, frozen=True):
    model: TextModel
    limits: ApiConfig


def prepared_here(
    payload: dict[str, Any],
    kind: type[F],
    prepare: Prepare[F, T],
    model: TextModel,
    limits: ApiConfig,
    fresh: Fresh,
    max_model_len: int,
) -> tuple[F, T]:
    """Checked fields, and what `prepare` makes of them. Raises RequestError."""
    fields = validate(kind, payload, max_items(limits))
    return fields, prepare(fields, model, limits, fresh, max_model_len)


class Preparation:
    """Has requests prepared by workers."""

    def __init__(
        self, limits: ApiConfig, models: Mapping[str, TextModel], workers: WorkerPool, modules: tuple[str, ...]
    ) -> None:
        """`modules` are those of all `prepare` functions, which workers have loaded before they are forked."""
        self._workers = workers
        # keys are nobody's business there
        limits = msgspec.structs.replace(limits, api_keys=())
        self._keys = {name: self._share(_Loaded(model, limits), modules) for name, model in models.items()}

    async def prepared(
        self,
        body: bytes,
        kind: type[F],
        prepare: Prepare[F, T],
        model: TextModel,
        fresh: Fresh,
        max_model_len: int,
    ) -> tuple[F, T]:
        """As `prepared_here`, the fields without what is large. Raises RequestError also for what takes too much."""
        task = _Task(body, name_of(kind), name_of(prepare), fresh, max_model_len)
        data = msgspec.msgpack.encode(task)
        try:
            answer = await self._workers.run(name_of(prepare_task), self._keys[model.name], data)
        except LimitExceeded as limit:
            raise RequestError(f"to prepare this request {limit}; make it smaller or simpler") from None
        outcome = values.loads(answer)
        if isinstance(outcome, _Fault):
            raise (ContextTooLong if outcome.is_too_long else RequestError)(outcome.message, outcome.param)
        return cast("tuple[F, T]", outcome)

    def _share(self, loaded: _Loaded, modules: tuple[str, ...]) -> str:
        data = pickle.dumps((loaded, modules))
        key = sha256(data).hexdigest()
        self._workers.share(key, name_of(load), data)
        return key


def load(data: bytes) -> _Loaded:
    """In the process that workers are forked from. The data is the ingress's own."""
    loaded, modules = pickle.loads(data)
    for module in modules:
        import_module(module)
    return cast("_Loaded", loaded)


def prepare_task(loaded: _Loaded, data: bytes) -> bytes:
    """In a worker: a _Task to fields and what was prepared, or to a _Fault."""
    task = msgspec.msgpack.decode(data, type=_Task)
    kind, prepare = function_at(task.kind), function_at(task.prepare)
    try:
        payload = parse_object(task.body)
        fields, prepared = prepared_here(
            payload, kind, prepare, loaded.model, loaded.limits, task.fresh, task.max_model_len
        )
    except RequestError as error:
        return values.dumps(_Fault(str(error), error.param, isinstance(error, ContextTooLong)))
    except RecursionError:
        return values.dumps(_Fault("this request nests too deeply", None, is_too_long=False))
    large = {name: None for name in LARGE if name in kind.model_fields}
    return values.dumps((fields.model_copy(update=large), prepared))
