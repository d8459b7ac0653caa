"""Shapes of answers of Anthropic's API, as typed dicts: filled by renderers, and the source of the OpenAPI document."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

__all__ = ["ErrorBody", "MessageBody", "MessageUsage", "TokensCount"]


class OutputTokensDetails(TypedDict):
    thinking_tokens: int


class MessageUsage(TypedDict):
    """The prompt's tokens are input_tokens, cache_creation_input_tokens and cache_read_input_tokens together."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: NotRequired[OutputTokensDetails]
    service_tier: NotRequired[Literal["standard"]]


class MessageBody(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class TokensCount(TypedDict):
    input_tokens: int


class ErrorDetails(TypedDict):
    error_code: str


class ErrorObject(TypedDict):
    type: str
    message: str
    details: NotRequired[ErrorDetails]


class ErrorBody(TypedDict):
    type: Literal["error"]
    error: ErrorObject
    request_id: str | None
