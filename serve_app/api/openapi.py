"""OpenAPI document: request bodies and responses of routes that parse their own body."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from serve_app.transport.errors import ErrorResponse

__all__ = ["complete_schema", "request_body", "responses"]

REFERENCE = "#/components/schemas/{model}"
FAULTS = {400: "the request is wrong", 401: "no valid API key", 404: "no such model", 413: "the body is too large"}
TROUBLES = {429: "all queues are full", 500: "internal error", 503: "nobody can answer now"}


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes this model."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}, "x-definitions": definitions}


def responses(model: type[Any] | None, *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route, its errors included."""
    good: dict[str, Any] = {"description": "the answer"}
    answers: dict[int | str, dict[str, Any]] = {200: good}
    for status, text in (FAULTS | TROUBLES).items():
        answers[status] = {"model": ErrorResponse, "description": text}
    if model is not None:
        good["model"] = model
    if streams:
        # no type: some validators check the whole body against it, others each parsed event
        good["content"] = {"text/event-stream": {"schema": {"description": "server-sent events"}}}
    return answers


def complete_schema(app: FastAPI) -> None:
    """Moves the request models' definitions to components/schemas, where references point."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for path in document["paths"].values():
            for operation in path.values():
                schemas.update(operation.pop("x-definitions", {}))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
