"""Wire model of /v1/messages: Anthropic's fields, with a few sampling parameters of vLLM."""

from typing import Annotated, Any, Literal

from pydantic import Field

from serve_app.api.fields import Int, Int64, Items, Number, Text, WireModel

__all__ = [
    "Block",
    "CountTokensRequest",
    "InputMessage",
    "MessagesRequest",
    "Prompt",
    "ResultBlock",
    "TextBlock",
    "Thinking",
    "Tool",
    "ToolChoice",
]


class TextBlock(WireModel):
    type: Literal["text"] = "text"
    text: str


class Source(WireModel):
    """Of a document."""

    type: str
    data: str | None = None
    content: str | Items[TextBlock] | None = None


class ResultBlock(WireModel):
    """A block of a tool's result."""

    type: str
    text: str | None = None
    source: Source | None = None  # of a document
    title: str | None = None  # of a document or a search result
    tool_name: str | None = None  # of a tool reference


class Block(ResultBlock):
    """A content block of any type; blocks.py reads the fields of its type."""

    source: Source | str | None = None  # type: ignore[assignment]  # a search result names its source
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None  # of redacted thinking
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | Items[ResultBlock] | None = None
    is_error: bool = False


class InputMessage(WireModel):
    role: Literal["user", "assistant", "system"]
    content: str | Items[Block]


class Tool(WireModel):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    type: str = "custom"  # any other is a tool of Anthropic's
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool = False


class ToolChoice(WireModel):
    type: Literal["auto", "any", "tool", "none"]
    name: Text | None = None
    disable_parallel_tool_use: bool = False


class Thinking(WireModel):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[Int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] = "summarized"

    @property
    def is_on(self) -> bool:
        return self.type in ("enabled", "adaptive")


class JsonOutput(WireModel):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(WireModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonOutput | None = None


class Prompt(WireModel):
    """The fields that the prompt depends on."""

    costly_fields = ("output_config", "output_format")

    model: str = ""
    messages: Annotated[Items[InputMessage], Field(min_length=1)]
    system: str | Items[TextBlock] = ""
    tools: Items[Tool] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig = Field(default_factory=OutputConfig)
    output_format: JsonOutput | None = None  # the older place of output_config.format
    thread: dict[str, Any] | None = None  # refused: the client then sends the whole conversation


class CountTokensRequest(Prompt):
    pass


class MessagesRequest(Prompt):
    max_tokens: Annotated[Int, Field(ge=0)]  # 0: the prompt is computed and cached, and nothing is generated
    stream: bool = False
    stop_sequences: Items[Text] = Field(default_factory=list)
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None  # None: the model's own default, as of the next two
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    top_k: Annotated[Int, Field(ge=-1)] | None = None
    # vLLM's
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[Number, Field(gt=0)] | None = None
    seed: Int64 | None = None
    stream_interval: Annotated[Int, Field(ge=1)] = 1  # tokens per event
    priority: Int64 = 0  # lower runs first
    cache_salt: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^@/\\\x00]*$")] | None = None
    request_id: str = ""  # X-Request-Id wins
    session_id: Annotated[str, Field(max_length=256)] = ""  # X-Session-Id wins
