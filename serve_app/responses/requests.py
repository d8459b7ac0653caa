"""Wire model of /v1/responses: OpenAI's fields, with a few sampling parameters of vLLM."""

from typing import Annotated, Any, Literal

from pydantic import Field

from serve_app.api.fields import Int, Int64, Items, Number, Text, WireModel

__all__ = [
    "ConversationItemsRequest",
    "ConversationRequest",
    "InputFields",
    "InputItem",
    "InputTokensRequest",
    "MetadataRequest",
    "Part",
    "ResponsesRequest",
    "TextFormat",
    "Tool",
    "ToolChoice",
    "ToolOrNamespace",
]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Part(WireModel):
    """Of a message, a tool's output, or reasoning."""

    type: str
    text: str | None = None
    refusal: str | None = None


class InputItem(WireModel):
    """An item of any type; items.py reads the fields of its type."""

    type: str = "message"
    id: str | None = None
    role: str | None = None
    content: str | Items[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None  # of the called tool
    arguments: str | dict[str, Any] | None = None  # JSON text
    input: str | None = None  # of a custom tool's call
    output: str | Items[Part] | None = None  # of a tool
    summary: Items[Part] | None = None  # of reasoning
    encrypted_content: str | None = None  # reasoning, sealed
    status: str | None = None


class Tool(WireModel):
    type: str
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None  # a JSON schema
    strict: bool | None = None
    format: dict[str, Any] | None = None  # of a custom tool's input


class ToolOrNamespace(Tool):
    tools: Items[Tool] | None = None  # of a namespace


class ToolChoice(WireModel):
    type: str
    name: Text | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: Items[dict[str, Any]] = Field(default_factory=list)


class TextFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None  # false: keywords that no grammar supports are ignored, not refused


class TextConfig(WireModel):
    format: TextFormat = Field(default_factory=TextFormat)
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(WireModel):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    max_tokens: Annotated[Int64, Field(ge=-1)] = -1  # after which reasoning is ended; -1: no limit


class ConversationRef(WireModel):
    id: Text


class InputFields(WireModel):
    """The fields that the prompt depends on."""

    model: str = ""
    input: str | Items[InputItem] = ""
    instructions: str | None = None
    tools: Items[ToolOrNamespace] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice = "auto"
    reasoning: Reasoning = Field(default_factory=Reasoning)
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None

    @property
    def items(self) -> list[InputItem]:
        """The input; a text is a message of the user."""
        if isinstance(self.input, str):
            return [InputItem(role="user", content=self.input)] if self.input else []
        return self.input

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation


class InputTokensRequest(InputFields):
    pass


class ResponsesRequest(InputFields):
    costly_fields = ("text",)

    parallel_tool_calls: bool = True
    max_tool_calls: Annotated[Int, Field(ge=1)] | None = None  # further calls are dropped
    text: TextConfig = Field(default_factory=TextConfig)
    include: Items[str] = Field(default_factory=list)
    max_output_tokens: Annotated[Int, Field(ge=1)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None  # None: the model's own default
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[Int, Field(ge=0)] = 0
    truncation: Literal["auto", "disabled"] = "disabled"
    stream: bool = False
    store: bool = True
    background: bool = False
    metadata: dict[str, str] = Field(default_factory=dict)
    prompt: dict[str, Any] | None = None  # refused: this server keeps no prompt templates
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    # vLLM's
    top_k: Annotated[Int, Field(ge=-1)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[Number, Field(gt=0)] | None = None
    seed: Int64 | None = None
    stop: Text | Items[Text] = Field(default_factory=list)
    stream_interval: Annotated[Int, Field(ge=1)] = 1  # tokens per event
    priority: Int64 = 0  # lower runs first
    cache_salt: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^@/\\\x00]*$")] | None = None
    request_id: str = ""  # X-Request-Id wins
    session_id: Annotated[str, Field(max_length=256)] = ""  # X-Session-Id wins


Metadata = dict[str, str]


class MetadataRequest(WireModel):
    metadata: Metadata = Field(default_factory=dict)


class ConversationRequest(MetadataRequest):
    items: Items[InputItem] = Field(default_factory=list)


class ConversationItemsRequest(WireModel):
    items: Annotated[Items[InputItem], Field(min_length=1)]
