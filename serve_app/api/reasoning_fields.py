"""Wire fields of reasoning: effort, budget, format. OpenAI's, vLLM's, SGLang's and llama.cpp's."""

from typing import Annotated, Literal

from pydantic import Field

from serve_app.api.fields import Int64, WireModel

__all__ = ["EffortFields", "ReasoningFields"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(WireModel):
    """SGLang's `reasoning` object."""

    effort: Effort | None = None
    reasoning_effort: Effort | None = None  # the same
    enabled: bool | None = None
    max_tokens: Annotated[Int64, Field(ge=0)] | None = None
    exclude: bool = False


class EffortFields(WireModel):
    """The fields that the chat template reads."""

    reasoning_effort: Effort | None = None
    reasoning: Reasoning = Field(default_factory=Reasoning)

    @property
    def effort(self) -> Effort | None:
        return self.reasoning_effort or self.reasoning.effort or self.reasoning.reasoning_effort

    @property
    def enables_thinking(self) -> bool | None:
        """None: the template's default."""
        if self.reasoning.enabled is not None:
            return self.reasoning.enabled
        return None if self.effort is None else self.effort != "none"


class ReasoningFields(EffortFields):
    include_reasoning: bool = True
    separate_reasoning: bool = True  # false: reasoning is content, with its markers
    reasoning_format: Literal["none", "auto", "deepseek"] = "auto"  # none: the same
    thinking_token_budget: Annotated[
        Int64, Field(ge=-1)
    ] = -1  # tokens of reasoning after which it is ended; -1: no limit
    thinking_budget_tokens: Annotated[Int64, Field(ge=-1)] = -1  # the same

    @property
    def sends_reasoning(self) -> bool:
        return self.include_reasoning and not self.reasoning.exclude

    @property
    def merges_reasoning(self) -> bool:
        """Whether reasoning is sent as content, with its markers."""
        return not self.separate_reasoning or self.reasoning_format == "none"

    @property
    def reasoning_tokens(self) -> int:
        """The reasoning budget in tokens; -1: no limit."""
        if self.thinking_token_budget >= 0:
            return self.thinking_token_budget
        return self.thinking_budget_tokens if self.reasoning.max_tokens is None else self.reasoning.max_tokens
