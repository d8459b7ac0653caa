"""Response shapes of OpenAI's API, as typed dicts: filled by renderers, and the source of the OpenAPI document.

Bodies that a route returns unchanged (models, tokens) are pydantic models, which FastAPI serializes.
"""

from typing import Any, Literal, NotRequired

from pydantic import BaseModel
from typing_extensions import TypedDict

__all__ = [
    "ChatChoice",
    "ChatCompletion",
    "ChatMessage",
    "ChoiceLogprobs",
    "Completion",
    "CompletionChoice",
    "CompletionLogprobs",
    "DetokenizeAnswer",
    "ModelCard",
    "ModelList",
    "PromptLogprob",
    "PromptLogprobs",
    "TokenLogprobs",
    "TokenizeAnswer",
    "ToolCall",
    "ToolCallFunction",
    "TopLogprob",
    "UsageInfo",
]


class TokenizeAnswer(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(BaseModel):
    prompt: str


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "manta"
    root: str
    parent: str | None = None
    max_model_len: int
    permission: list[dict[str, Any]] = []


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(TypedDict):
    content: list[TokenLogprobs]


class ToolCallFunction(TypedDict):
    name: str
    arguments: str


class ToolCall(TypedDict):
    id: str | None
    type: Literal["function"]
    function: ToolCallFunction


class ChatMessage(TypedDict):
    role: str
    content: str | None
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]
    function_call: NotRequired[ToolCallFunction]  # in place of tool_calls, for requests with functions


class PromptTokensDetails(TypedDict):
    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    reasoning_tokens: int


class UsageInfo(TypedDict):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: NotRequired[CompletionTokensDetails]
    migrations: NotRequired[int]  # request migrations; absent if none
    mixed_kernels: NotRequired[bool]  # it migrated to other kernels: tokens may part at near ties; absent if not


class PromptLogprob(TypedDict):
    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]  # by token id; None for the first token


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] | None


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageInfo
    service_tier: None
    system_fingerprint: str | None
    prompt_token_ids: list[int] | None
    prompt_text: NotRequired[str]
    prompt_logprobs: PromptLogprobs | None
    kv_transfer_params: None


class CompletionLogprobs(TypedDict):
    text_offset: list[int]
    tokens: list[str]
    token_logprobs: list[float | None]  # null for the first token of an echoed prompt
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: list[int] | None
    token_ids: list[int] | None


class Completion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageInfo
    service_tier: None
    system_fingerprint: str | None
    kv_transfer_params: None
