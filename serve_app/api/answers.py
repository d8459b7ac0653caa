"""What clients get, as the documentation says it. Answers themselves are written without these classes."""

from typing import Any, Literal

from pydantic import BaseModel

__all__ = [
    "ChatCompletion",
    "Completion",
    "DetokenizeAnswer",
    "ErrorAnswer",
    "ModelCard",
    "ModelList",
    "ModelStatus",
    "StatusList",
    "TokenizeAnswer",
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


class ModelStatus(BaseModel):
    """All replicas of a model together."""

    model: str
    max_model_len: int  # tokens, prompt and answer together
    num_running: int  # sequences that hold blocks
    num_waiting: int
    num_waiting_tokens: int
    num_prefill_tokens: int
    num_blocks: int
    num_free_blocks: int
    first_token_s: float  # mean of the last half minute, of the slowest replica; 0: nothing came
    collective: str  # what ranks add up over: shared memory, nccl or gloo; "": there is one rank


class StatusList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelStatus]


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprobs]


class AnswerFunction(BaseModel):
    name: str
    arguments: str


class AnswerCall(BaseModel):
    id: str
    type: Literal["function"]
    function: AnswerFunction


class AnswerMessage(BaseModel):
    role: str
    content: str | None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[AnswerCall] | None = None
    function_call: AnswerFunction | None = None  # instead of tool_calls, to those who have sent functions


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str
    stop_reason: str | int | None


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class UsageAnswer(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | None = None
    migrations: int | None = None  # replicas that the request lost on its way; absent if none


class PromptLogprob(BaseModel):
    logprob: float
    rank: int
    decoded_token: str


class ChatCompletion(BaseModel):
    """What is sent, as documentation: answers are written without these classes."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageAnswer
    system_fingerprint: str | None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None  # by token id
    prompt_text: str | None = None


class CompletionLogprobs(BaseModel):
    text_offset: list[int]
    tokens: list[str]
    token_logprobs: list[float | None]  # null for the first token of a prompt that comes back
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: str | int | None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None  # by token id


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageAnswer
    system_fingerprint: str | None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: int


class ErrorAnswer(BaseModel):
    error: ErrorDetail
