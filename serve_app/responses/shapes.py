"""Shapes of answers of /v1/responses, as typed dicts: the source of the OpenAPI document."""

from typing import Any, Literal

from typing_extensions import TypedDict

__all__ = [
    "ConversationBody",
    "DeletedBody",
    "InputTokensBody",
    "ItemBody",
    "ItemListBody",
    "ResponseBody",
]


class InputTokensDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    reasoning_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseBody(TypedDict):
    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "failed", "in_progress", "cancelled", "queued", "incomplete"]
    output: list[dict[str, Any]]
    usage: ResponseUsage | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    metadata: dict[str, str]
    previous_response_id: str | None


class DeletedBody(TypedDict):
    id: str
    object: str
    deleted: bool


class InputTokensBody(TypedDict):
    object: Literal["response.input_tokens"]
    input_tokens: int


class ItemBody(TypedDict):
    id: str
    type: str


class ItemListBody(TypedDict):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class ConversationBody(TypedDict):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]
