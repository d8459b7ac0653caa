"""Checks a parsed body against a wire model, and says what is wrong in the client's words."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine.errors import RequestError

__all__ = ["validate"]

MAX_FAULTS = 5  # told at once
M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], payload: dict[str, Any]) -> M:
    """Raises RequestError; `param` is the dotted field of the first fault."""
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        faults = _by_field(payload, error)
    told = [f"{field}: {' or '.join(messages)}" if field else " or ".join(messages) for field, messages in faults]
    more = f"; and {len(told) - MAX_FAULTS} more" if len(told) > MAX_FAULTS else ""
    raise RequestError("; ".join(told[:MAX_FAULTS]) + more, param=faults[0][0] or None)


def _by_field(payload: Any, error: ValidationError) -> list[tuple[str, list[str]]]:
    """Field -> what is wrong. Where a union failed inside one branch, only that branch is told."""
    found: dict[tuple[str | int, ...], list[str]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        messages = found.setdefault(_path(payload, detail["loc"], detail["type"] == "missing"), [])
        message = _message(detail["msg"], detail["input"])
        if message not in messages:
            messages.append(message)
    inner = {path[:depth] for path in found for depth in range(len(path))}
    return [(".".join(map(str, path)), messages) for path, messages in found.items() if path not in inner]


def _path(payload: Any, location: Sequence[str | int], is_missing: bool) -> tuple[str | int, ...]:
    """Pydantic's location without the names of union branches, which no body has."""
    path: list[str | int] = []
    for index, step in enumerate(location):
        if isinstance(payload, dict) and (step in payload or (is_missing and index == len(location) - 1)):
            payload = payload.get(step)
        elif isinstance(payload, list) and isinstance(step, int) and step < len(payload):
            payload = payload[step]
        else:
            continue
        path.append(step)
    return tuple(path)


def _message(message: str, value: Any) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ").removeprefix("should be ")
    text = text if text != message else message[0].lower() + message[1:]
    if message.startswith("Input should be "):
        shown = repr(value)
        return f"must be {text}, not {shown if len(shown) <= 40 else type(value).__name__}"
    return text
