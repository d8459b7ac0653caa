"""Request validation: a parsed body against its wire model; errors name the client's field."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from configs.schema import ApiConfig
from engine.errors import RequestError

__all__ = ["max_items", "validate"]

MAX_FAULTS = 5  # reported at once
OF_VALUES = ("Input should be ", "Unable to extract tag ", "Input tag ")  # faults of a value, which is shown
CONSTANTS = {None: "null", True: "true", False: "false"}
# pydantic's type names -> JSON's
PLAIN = (
    (r"a valid dictionary\b.*", "an object"),
    (r"a valid list", "an array"),
    (r"a valid integer", "an integer"),
    (r"a valid ", "a "),
    (r" after validation\b", ""),
    (r"^(list|string) should have at least 1 (item|character)(, not 0)?$", r"should be non-empty, with at least 1 \2"),
    (r"unable to extract tag using discriminator '(\w+)'", r"an object with a \1"),
    (r"tag .* found using '(\w+)' does not match any of the expected tags: (.*)", r"an object whose \1 is one of \2"),
)
Path = tuple[str | int, ...]
Branches = tuple[tuple[Path, str | int], ...]  # of unions: (path, branch)
M = TypeVar("M", bound=BaseModel)


def max_items(limits: ApiConfig) -> dict[str, int]:
    """Field -> its largest number of items, checked before any item is."""
    return {
        "messages": limits.max_messages,
        "input": limits.max_messages,
        "stop": limits.max_stop,
        "stop_sequences": limits.max_stop,
        "tools": limits.max_tools,
        "functions": limits.max_tools,
        "documents": limits.max_messages,
        "logit_bias": limits.max_logit_bias,
        "stop_token_ids": limits.max_logit_bias,
        "logprob_token_ids": limits.max_logit_bias,
        "bad_words": limits.max_logit_bias,
    }


def validate(model: type[M], payload: dict[str, Any], max_items: Mapping[str, int] | None = None) -> M:
    """Raises RequestError; `param` is the dotted field of the first fault.

    max_items   the most items of a field's list or object; longer ones are refused unread
    """
    for field, most in (max_items or {}).items():
        value = payload.get(field)
        if isinstance(value, list | dict) and len(value) > most:
            raise RequestError(f"{field}: {len(value)} is more than this server allows ({most})", param=field)
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        faults = _by_field(payload, error)
    reports = [f"{field}: {_joined(messages)}" if field else _joined(messages) for field, messages in faults]
    more = f"; and {len(reports) - MAX_FAULTS} more" if len(reports) > MAX_FAULTS else ""
    raise RequestError("; ".join(reports[:MAX_FAULTS]) + more, param=faults[0][0] or None)


def _by_field(payload: Any, error: ValidationError) -> list[tuple[str, list[str]]]:
    """Field -> errors. Where a union failed inside one branch, only that branch is reported."""
    found: dict[Path, dict[str, bool]] = {}  # message -> whether it is a type error
    details = error.errors(include_url=False, include_context=False)
    located = [(detail, *_path(payload, detail["loc"], detail["type"] == "missing")) for detail in details]
    other = _branches_not_meant((detail["type"], branches) for detail, _, branches in located)
    for detail, path, branches in located:
        if other.isdisjoint(branches):
            messages = found.setdefault(path, {})
            messages[_message(detail["msg"], detail["input"])] = detail["type"].endswith("_type")
    inner = {path[:depth] for path in found for depth in range(len(path))}
    return [(".".join(map(str, path)), _closest(messages)) for path, messages in found.items() if path not in inner]


def _branches_not_meant(faults: Iterable[tuple[str, Branches]]) -> set[tuple[Path, str | int]]:
    """Branches of unions that fail beside one with value errors alone, whose types match."""
    wrong_in_type: dict[tuple[Path, str | int], bool] = {}
    for kind, branches in faults:
        for branch in branches:
            wrong_in_type[branch] = wrong_in_type.get(branch, False) or kind.endswith("_type")
    meant = {path for (path, _), wrong in wrong_in_type.items() if not wrong}
    return {branch for branch, wrong in wrong_in_type.items() if wrong and branch[0] in meant}


def _closest(messages: dict[str, bool]) -> list[str]:
    """The messages without the other types of a union."""
    return [message for message, is_of_type in messages.items() if not is_of_type] or list(messages)


def _joined(messages: Sequence[str]) -> str:
    """Several messages as one: alternatives joined by "or", the value's type once."""
    pieces = [message.removeprefix("must be ").rpartition(", not ") for message in messages]
    if len({piece[2] for piece in pieces}) > 1 or not all(message.startswith("must be ") for message in messages):
        return " or ".join(messages)
    return f"must be {' or '.join(piece[0] for piece in pieces)}, not {pieces[0][2]}"


def _path(payload: Any, location: Sequence[str | int], is_missing: bool) -> tuple[Path, Branches]:
    """Pydantic's location without union branches, which no body has; and the branches, each with its path."""
    path: list[str | int] = []
    branches: list[tuple[Path, str | int]] = []
    for index, step in enumerate(location):
        if isinstance(payload, dict) and (step in payload or (is_missing and index == len(location) - 1)):
            payload = payload.get(step)
        elif isinstance(payload, list) and isinstance(step, int) and step < len(payload):
            payload = payload[step]
        else:
            branches.append((tuple(path), step))
            continue
        path.append(step)
    return tuple(path), tuple(branches)


def _message(message: str, value: Any) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ").removeprefix("should be ")
    text = text if text != message else message[0].lower() + message[1:]
    for pydantic, plain in PLAIN:
        text = re.sub(pydantic, plain, text)
    if message.startswith(OF_VALUES):
        shown = CONSTANTS.get(value, repr(value)) if isinstance(value, bool | None) else repr(value)
        return f"must be {text}, not {shown if len(shown) <= 40 else type(value).__name__}"
    return text
