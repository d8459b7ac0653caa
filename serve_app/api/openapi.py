"""OpenAPI document: request bodies and responses of routes that parse their own body."""

from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from serve_app.transport.errors import ErrorResponse

__all__ = ["complete_schema", "request_body", "responses"]

REFERENCE = "#/components/schemas/{model}"
FAULTS = {400: "the request is wrong", 401: "no valid API key", 404: "no such model", 413: "the body is too large"}
TROUBLES = {429: "all queues are full", 500: "internal error", 503: "nobody can answer now"}


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes this model."""
    schema, definitions = _schema(model, "validation")
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}, "x-definitions": definitions}


def responses(
    model: type[Any] | None, *, streams: bool = False, error: type[Any] = ErrorResponse
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route, its errors included."""
    answers: dict[int | str, dict[str, Any]] = {200: {"description": "the answer"} | _content(model)}
    for status, text in (FAULTS | TROUBLES).items():
        answers[status] = {"description": text} | _content(error)
    if streams:
        # no type: some validators check the whole body against it, others each parsed event
        content = answers[200].setdefault("content", {})
        content["text/event-stream"] = {"schema": {"description": "server-sent events"}}
    return answers


def _content(model: type[Any] | None) -> dict[str, Any]:
    """Of a response: the model by reference. FastAPI would make a validator of each model for each response."""
    if model is None:
        return {}
    schema, definitions = _schema(model, "serialization")  # type: ignore[arg-type]  # every class is hashable
    reference = {"$ref": REFERENCE.format(model=model.__name__)}
    content = {"application/json": {"schema": reference}}
    return {"content": content, "x-definitions": definitions | {model.__name__: schema}}


@cache
def _schema(model: type[Any], mode: JsonSchemaMode) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's JSON schema, and the definitions that it refers to."""
    schema = TypeAdapter(model).json_schema(ref_template=REFERENCE, mode=mode)
    return schema, schema.pop("$defs", {})


def complete_schema(app: FastAPI) -> None:
    """Moves the models' definitions to components/schemas, where references point."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for path in document["paths"].values():
            for operation in path.values():
                for part in (operation, *operation["responses"].values()):
                    schemas.update(part.pop("x-definitions", {}))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
