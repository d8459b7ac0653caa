"""Wire models of request bodies: OpenAI's, with the additional fields of vLLM, SGLang and llama.cpp."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from serve_app.api.constraint_fields import ConstraintFields
from serve_app.api.fields import Int, Int64, Items, Number, Text, WireModel
from serve_app.api.reasoning_fields import EffortFields, ReasoningFields

__all__ = [
    "COSTLY_FIELDS",
    "AllowedTools",
    "AnswerFields",
    "ChatBatchRequest",
    "ChatFields",
    "ChatOptions",
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "Function",
    "FunctionCall",
    "FunctionName",
    "GenerationFields",
    "Message",
    "NamedTool",
    "PromptFields",
    "SamplingFields",
    "StreamOptions",
    "TextPart",
    "TokenizeRequest",
    "Tool",
    "ToolCall",
]


# fields that cost more than their size: schemas, grammars, templates
COSTLY_FIELDS = (
    "tools",
    "functions",
    "chat_template",
    "chat_template_kwargs",
    *ConstraintFields.model_fields,
)

Ids = Annotated[Items[Int], Field(min_length=1)]


class TextPart(WireModel):
    type: str = ""  # unset: text, if the part has some
    text: str | None = None
    refusal: str | None = None
    thinking: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_alone_is_a_part(cls, value: Any) -> Any:
        return {"type": "text", "text": value} if isinstance(value, str) else value


class FunctionCall(WireModel):
    name: Text
    arguments: str | dict[str, Any] = ""  # JSON text


class ToolCall(WireModel):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(WireModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]  # function: the older name of tool
    content: str | Items[TextPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Items[ToolCall] = Field(default_factory=list)
    function_call: FunctionCall | None = None  # a call without an id
    refusal: str | None = None  # instead of content
    reasoning: str | None = None
    reasoning_content: str | None = None  # the same under its older name


class Function(WireModel):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool | None = None


class Tool(WireModel):
    type: Literal["function"] = "function"
    function: Function


class FunctionName(WireModel):
    name: Text


class NamedTool(WireModel):
    type: Literal["function"] = "function"
    function: FunctionName


class ToolSubset(WireModel):
    mode: Literal["auto", "required"]
    tools: Annotated[Items[NamedTool], Field(min_length=1)]


class AllowedTools(WireModel):
    type: Literal["allowed_tools"]
    allowed_tools: ToolSubset


class StreamOptions(WireModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # acts together with include_usage only


class RepetitionDetection(WireModel):
    """Ends an answer that repeats a pattern of tokens `min_count` times in a row. max_pattern_size 0 is off."""

    max_pattern_size: Annotated[Int, Field(ge=0, le=256)] = 0
    min_pattern_size: Annotated[Int, Field(ge=0)] = 0
    min_count: Annotated[Int64, Field(ge=2)] = 2

    @model_validator(mode="after")
    def _has_sizes(self) -> "RepetitionDetection":
        if 0 < self.max_pattern_size < self.min_pattern_size:
            raise ValueError("min_pattern_size is more than max_pattern_size")
        return self


class SamplingFields(WireModel):
    """Sampling parameters. None: the model's own default."""

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None  # 0: greedy
    top_k: Annotated[Int, Field(ge=-1)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[Number, Field(gt=0)] | None = None
    seed: Int64 | None = None
    n: Annotated[Int, Field(ge=1)] = 1
    stop: Text | Items[Text] = Field(default_factory=list)
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    min_tokens: Annotated[Int, Field(ge=0)] = 0
    ignore_eos: bool = False
    stop_token_ids: Items[Int] = Field(default_factory=list)
    logit_bias: dict[str, Number] = Field(default_factory=dict)
    allowed_token_ids: Annotated[Items[Int], Field(min_length=1)] | None = None
    bad_words: Items[Text] = Field(default_factory=list)
    logprob_token_ids: Items[Int] = Field(
        default_factory=list
    )  # tokens whose logprobs are sent, in place of the most likely ones
    prompt_logprobs: Annotated[Int, Field(ge=-1)] | None = None  # -1: of the whole vocabulary, if the limits allow it
    repetition_detection: RepetitionDetection | None = None
    use_beam_search: bool = False  # with n beams; their answers come at the end, best first
    length_penalty: Annotated[Number, Field(ge=-32, le=32)] = 1.0  # an exponent: scores stay finite
    early_stopping: bool = False

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop


class PromptFields(WireModel):
    """Truncation of the prompt."""

    truncate_prompt_tokens: Annotated[Int, Field(ge=-1)] | None = None  # -1: as many as leave room for the answer
    truncation_side: Literal["left", "right"] = "left"  # where tokens are cut off


class AnswerFields(WireModel):
    """Model, priority and delivery of the answer."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    stream_interval: Annotated[Int, Field(ge=1)] = 1  # tokens per event
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True  # without effect: our detokenizer adds none
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False  # logprobs name tokens as token_id:N
    priority: Int64 = 0  # lower runs first
    cache_salt: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^@/\\\x00]*$")] | None = None
    request_id: str = ""  # X-Request-Id wins
    session_id: Annotated[str, Field(max_length=256)] = ""  # X-Session-Id wins


class GenerationFields(SamplingFields, PromptFields, AnswerFields, ConstraintFields):
    """The fields of every generating request."""


class ChatFields(EffortFields):
    """The fields of chat templating."""

    add_generation_prompt: bool | None = None  # unset: unless the last message is continued
    continue_final_message: bool = False
    add_special_tokens: bool = False  # besides those of the template
    documents: Items[dict[str, Any]] | None = None
    chat_template: Text | None = None  # only with api.trust_request_chat_template
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class ChatOptions(GenerationFields, ChatFields, ReasoningFields):
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None  # wins over max_tokens
    logprobs: bool = False
    top_logprobs: Annotated[Int, Field(ge=0)] = 0
    echo: bool = False  # the answer begins with the last message, if that has the answer's role
    return_prompt_text: bool = False  # the rendered conversation, before truncation
    tools: Items[Tool] = Field(default_factory=list)
    tool_choice: (
        Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedTools, Field(discriminator="type")] | None
    ) = None  # unset: auto
    parallel_tool_calls: bool = True
    functions: Items[Function] = Field(default_factory=list)  # the older name of tools
    function_call: Literal["none", "auto"] | FunctionName | None = None  # the older name of tool_choice

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _a_choice_without_type_names_a_function(cls, value: Any) -> Any:
        return {"type": "function", **value} if isinstance(value, dict) and "function" in value else value

    @property
    def wanted_tokens(self) -> tuple[int | None, str]:
        """The client's max_tokens, and the field that has it."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"


class ChatRequest(ChatOptions):
    messages: Items[Message]  # may be empty only beside a token prompt
    prompt_token_ids: Ids | None = None  # read instead of the messages
    input_ids: Ids | None = None  # SGLang's name for it

    @property
    def token_field(self) -> str | None:
        """The field that has a token prompt, if one has."""
        fields = ("prompt_token_ids", "input_ids")
        return next((name for name in fields if getattr(self, name) is not None), None)


class ChatBatchRequest(ChatOptions):
    """Many conversations, one answer with a choice for each."""

    messages: Annotated[Items[Annotated[Items[Message], Field(min_length=1)]], Field(min_length=1)]


class CompletionRequest(GenerationFields):
    prompt: Text | Ids | Annotated[Items[Text], Field(min_length=1)] | Annotated[Items[Ids], Field(min_length=1)]
    max_tokens: Annotated[Int, Field(ge=0)] = 16  # 0: only with echo
    add_special_tokens: bool = True
    logprobs: Annotated[Int, Field(ge=0)] | None = None
    echo: bool = False
    suffix: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # one prompt of ids
        return list(self.prompt)  # several prompts


class TokenizeRequest(ChatFields):
    """Either a prompt or messages."""

    model: str = ""
    prompt: str | None = None
    messages: Annotated[Items[Message], Field(min_length=1)] | None = None
    tools: Items[Tool] = Field(default_factory=list)
    add_special_tokens: bool | None = None  # type: ignore[assignment]  # unset: for a prompt, not for messages
    return_token_strs: bool = False


class DetokenizeRequest(WireModel):
    model: str = ""
    tokens: Items[Int]
