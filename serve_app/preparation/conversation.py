"""From a Conversation to the engine's request: chat template, tokens, tools, grammar. Pure."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.generation.choice import TextRules
from serve_app.generation.output_parser import ParseRules
from serve_app.grammar.constraint import Constraint, constraint_of
from serve_app.model.messages import template_messages
from serve_app.model.template import RESERVED
from serve_app.model.text_model import TextModel
from serve_app.preparation.generate_request import PreparedRequest, RequestContext, prepare
from serve_app.preparation.prompt import check_text_fits
from serve_app.preparation.sampling import check_ids
from serve_app.request.conversation import Conversation, TemplateOptions
from serve_app.request.limits import at_most
from serve_app.text.reasoning_parser import ReasoningPosition
from serve_app.tools.harmony_grammar import harmony_constraint
from serve_app.tools.json_formats import GENERIC
from serve_app.tools.tool_call_grammar import tool_constraint
from serve_app.tools.tool_prompt import with_tools_in_text
from serve_app.tools.tool_use import ToolUse

__all__ = ["ConversationPreparer", "PreparedConversation", "chat_prompt"]

STEPS = ("template", "tokenize", "grammar")


class PreparedConversation(msgspec.Struct, frozen=True):
    request: PreparedRequest
    role: str  # of the answer
    echo: str  # the beginning of every choice
    prompt: str  # as rendered


class ConversationPreparer:
    """Prepares conversations that differ only in their messages; their grammar is made once."""

    def __init__(self, tools: ToolUse, model: TextModel, limits: ApiConfig) -> None:
        self._tools, self._model, self._limits = tools, model, limits
        # a constraint depends on its conversation only by where reasoning begins
        self._constraints: dict[ReasoningPosition | None, Constraint | None] = {}

    def prepare(self, conversation: Conversation, context: RequestContext) -> PreparedConversation:
        """Raises RequestError for every error of the client."""
        messages = template_messages(conversation.messages)
        times = [time.monotonic()]
        prompt, tokens = self._prompt(conversation, messages, context, times)
        times.append(time.monotonic())
        parse = self._parse_rules(conversation, prompt)
        constraint = self._constraint(conversation, parse)
        times.append(time.monotonic())
        answer = TextRules(
            starts_text=not conversation.template.continue_final_message, parse=parse, constraint=constraint
        )
        request = prepare(conversation.options, tokens, self._model, context, answer)
        names = STEPS if len(times) > len(STEPS) else STEPS[1:]  # a client may render the prompt
        request = msgspec.structs.replace(request, steps=tuple(zip(names, times, times[1:], strict=False)))
        role = "assistant" if conversation.template.adds_generation_prompt else messages[-1]["role"]
        echo = messages[-1]["content"] if conversation.echo and messages[-1]["role"] == role else ""
        return PreparedConversation(request, role, echo, prompt)

    def _prompt(
        self,
        conversation: Conversation,
        messages: Sequence[dict[str, Any]],
        context: RequestContext,
        times: list[float],
    ) -> tuple[str, tuple[int, ...]]:
        model, given = self._model, conversation.token_prompt
        if given is not None:
            check_ids(given.field, given.tokens, model.vocabulary.num_tokens)
            return model.tokenizer.decode(list(given.tokens), skip_special_tokens=False), given.tokens
        text = chat_prompt(conversation.template, messages, self._tools.definitions, model, self._limits)
        times.append(time.monotonic())
        check_text_fits(text, conversation.options.lengths, model, context.max_model_len, param="messages")
        return text, model.encode(text, add_special_tokens=conversation.template.add_special_tokens)

    def _parse_rules(self, conversation: Conversation, prompt: str) -> ParseRules | None:
        model, tools, goes_on = self._model, self._tools, conversation.template.continue_final_message
        if model.reasoning_format is None and not tools.schemas:
            return None
        position = model.reasoning_format.position_after(prompt) if model.reasoning_format is not None else "after"
        return ParseRules(
            reasoning=model.reasoning_format,
            position="after" if goes_on and position == "before" else position,
            sends_reasoning=conversation.reasoning.is_sent,
            keeps_markers=conversation.reasoning.is_content,
            tools=model.tool_call_format if tools.schemas else None,
            tool_schemas=tools.schemas,
            max_calls=tools.max_calls,
            forced=tools.forced,
        )

    def _constraint(self, conversation: Conversation, parse: ParseRules | None) -> Constraint | None:
        position = parse.position if parse is not None else None
        if position not in self._constraints:
            self._constraints[position] = self._new_constraint(conversation, parse)
        return self._constraints[position]

    def _new_constraint(self, conversation: Conversation, parse: ParseRules | None) -> Constraint | None:
        """The constraint of the answer, with `fits` set as requested."""
        constraint = self._format_or_calls(conversation, parse)
        must_fit = conversation.options.output.must_fit
        if constraint is None or self._tools.forced is None or not must_fit:
            return constraint
        return msgspec.structs.replace(constraint, fits=True)

    def _format_or_calls(self, conversation: Conversation, parse: ParseRules | None) -> Constraint | None:
        """The constraint of tool calls or of the output format, which a forced call excludes."""
        tools, model, output = self._tools, self._model, conversation.options.output
        if tools.forced == "named" and (field := output.field_beside_tools):
            raise RequestError(f"{field}: tool_choice allows a call of its tool and nothing else; leave one out", field)
        wanted = constraint_of(output, self._limits) if tools.forced is None else None
        if parse is not None and parse.is_harmony and (wanted is not None or tools.schemas):
            return _in_channels(parse, harmony_constraint(tools, model.vocabulary, wanted))
        if not tools.schemas:
            return wanted
        constraint = tool_constraint(tools, model.tool_call_format, model.vocabulary, wanted)
        at_most("tools", constraint.num_bytes, self._limits.max_grammar_bytes, "bytes, as compiled")
        return constraint


def chat_prompt(
    options: TemplateOptions,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    model: TextModel,
    limits: ApiConfig,
) -> str:
    """The rendered conversation. Raises RequestError."""
    _check_template(options, limits)
    template = model.template if options.chat_template is None else model.with_template(options.chat_template)
    if template is None:
        raise RequestError(f"model {model.name!r} has no chat template; use /v1/completions", param="model")
    if model.tool_call_format == GENERIC:
        messages, tools = with_tools_in_text(messages, tools), []
    return template.render(
        messages,
        tools=tools or None,
        documents=options.documents,
        add_generation_prompt=options.adds_generation_prompt,
        continue_final_message=options.continue_final_message,
        **_template_kwargs(options),
    )


def _template_kwargs(options: TemplateOptions) -> dict[str, Any]:
    # templates have different names for it
    thinking = options.enable_thinking
    given = {"reasoning_effort": options.reasoning_effort, "enable_thinking": thinking, "thinking": thinking}
    return {name: value for name, value in given.items() if value is not None} | options.kwargs


def _in_channels(parse: ParseRules, constraint: Constraint) -> Constraint:
    if parse.position != "before":
        field = constraint.field
        raise RequestError(f"{field}: the answer must begin a message; leave out continue_final_message", field)
    return constraint


def _check_template(options: TemplateOptions, limits: ApiConfig) -> None:
    if options.continue_final_message and options.add_generation_prompt:
        raise RequestError(
            "continue_final_message: cannot be true together with add_generation_prompt", param="continue_final_message"
        )
    if options.chat_template is not None and not limits.trust_request_chat_template:
        raise RequestError(
            "chat_template: this server does not run templates of clients (api.trust_request_chat_template)",
            param="chat_template",
        )
    if reserved := sorted(RESERVED & options.kwargs.keys()):
        raise RequestError(f"chat_template_kwargs: may not set {', '.join(reserved)}", param="chat_template_kwargs")
