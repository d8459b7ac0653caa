"""A conversation: messages, tools and tool choice, chat template options, reasoning options."""

from typing import Any, Literal

import msgspec

from serve_app.request.options import GenerationOptions

__all__ = [
    "Conversation",
    "Message",
    "ReasoningOptions",
    "TemplateOptions",
    "TokenPrompt",
    "Tool",
    "ToolCall",
    "ToolChoice",
]


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call of an earlier message."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    role: str  # system, developer, user, assistant or tool
    content: str
    name: str | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    parameters: dict[str, Any]  # JSON schema of the arguments
    strict: bool  # unsupported keywords are refused, not ignored
    definition: dict[str, Any]  # the form that chat templates read


class ToolChoice(msgspec.Struct, frozen=True):
    """The tools that may be called, and whether one must be."""

    mode: Literal["none", "auto", "required", "named"] = "auto"
    names: tuple[str, ...] | None = None  # None: all


class TokenPrompt(msgspec.Struct, frozen=True):
    """A prompt that the client has rendered and tokenized."""

    tokens: tuple[int, ...]
    field: str  # of the request


class TemplateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the chat template."""

    add_generation_prompt: bool | None = None  # None: unless the last message is continued
    continue_final_message: bool = False
    add_special_tokens: bool = False  # besides those of the template
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = None  # None: the model's
    kwargs: dict[str, Any] = {}
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None  # None: the template's default

    @property
    def adds_generation_prompt(self) -> bool:
        """Whether the prompt ends with the generation prompt."""
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt


class ReasoningOptions(msgspec.Struct, frozen=True):
    """How reasoning is sent. Its length is in LengthLimits."""

    is_sent: bool = True
    is_content: bool = False  # sent as content, with its markers


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """The neutral request of a chat, independent of the API."""

    messages: tuple[Message, ...]
    options: GenerationOptions
    template: TemplateOptions = TemplateOptions()
    reasoning: ReasoningOptions = ReasoningOptions()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    token_prompt: TokenPrompt | None = None  # in place of the messages
    echo: bool = False  # the answer begins with the last message, if that has the same role
