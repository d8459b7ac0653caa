"""Pages of lists: `limit`, `order` and `after`, as OpenAI's clients ask for them."""

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from engine.errors import RequestError

__all__ = ["LIST_PARAMETERS", "page_of", "query_int"]

MAX_LIMIT, DEFAULT_LIMIT = 100, 20

# for `openapi_extra`
LIST_PARAMETERS: dict[str, Any] = {
    "parameters": [
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}},
        {"name": "order", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"]}},
        {"name": "after", "in": "query", "schema": {"type": "string"}},
    ]
}


def page_of(http: Request, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The page of items that the query asks for. Raises RequestError."""
    limit = query_int(http, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
    order = http.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise RequestError(f"order: must be asc or desc, not {order[:40]!r}", param="order")
    ordered = list(items) if order == "asc" else list(reversed(items))
    if after := http.query_params.get("after"):
        places = [place for place, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise RequestError(f"after: there is no item {after[:256]!r}", param="after")
        ordered = ordered[places[0] + 1 :]
    page = ordered[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(ordered) > limit,
    }


def query_int(http: Request, name: str, default: int, least: int, most: int) -> int:
    """Raises RequestError."""
    text = http.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 18) or not least <= int(text) <= most:
        raise RequestError(f"{name}: must be between {least} and {most}, not {text[:40]!r}", param=name)
    return int(text)
