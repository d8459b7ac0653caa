"""Adapter of /v1/messages: from a MessagesRequest to a Conversation, and its preparation for worker processes."""

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.messages.blocks import neutral_messages, system_text
from serve_app.messages.requests import CountTokensRequest, MessagesRequest, Prompt, Tool
from serve_app.messages.shapes import TokensCount
from serve_app.model.messages import template_messages
from serve_app.model.text_model import TextModel
from serve_app.preparation.conversation import ConversationPreparer, chat_prompt
from serve_app.preparation.generate_request import PreparedAnswer, RequestContext
from serve_app.request import conversation as neutral
from serve_app.request.conversation import Conversation, ReasoningOptions, TemplateOptions, ToolChoice
from serve_app.request.limits import at_most, check_limits
from serve_app.request.options import Delivery, GenerationOptions, LengthLimits, Logprobs, Sampling
from serve_app.request.output_format import JsonFormat, StructuredOutput
from serve_app.tools.tool_use import tool_use

__all__ = ["PreparedMessage", "conversation_of", "count_tokens", "prepare_message"]


class PreparedMessage(PreparedAnswer, frozen=True, kw_only=True):
    omits_thinking: bool  # thinking is sent sealed, as a signature
    is_cut_by_context: bool  # the context ends before max_tokens
    seal_key: bytes  # of the tenant


def prepare_message(
    fields: MessagesRequest, model: TextModel, limits: ApiConfig, context: RequestContext
) -> PreparedMessage:
    """Raises RequestError for every error of the client."""
    conversation = conversation_of(fields, limits, context)
    check_limits(conversation.options, limits, model.vocabulary.num_tokens)
    preparer = ConversationPreparer(tool_use(conversation, limits), model, limits)
    part = preparer.prepare(conversation, context).request
    if fields.max_tokens == 0:
        part = msgspec.structs.replace(part, scores_only=True)
    thinking = fields.thinking
    return PreparedMessage(
        parts=(part,),
        delivery=conversation.options.delivery,
        num_choices=1,
        has_seed=fields.seed is not None,
        omits_thinking=thinking is not None and thinking.display == "omitted",
        is_cut_by_context=part.request.sampling.max_tokens < fields.max_tokens,
        seal_key=context.seal_key,
    )


def count_tokens(fields: CountTokensRequest, model: TextModel, limits: ApiConfig, context: RequestContext) -> bytes:
    """The number of the prompt's tokens, as JSON."""
    messages = template_messages(_messages(fields, limits, context.seal_key))
    at_most("tools", len(fields.tools), limits.max_tools)
    tools = [tool.definition for tool in _tools(fields)]
    text = chat_prompt(_template(fields), messages, tools, model, limits)
    count: TokensCount = {"input_tokens": len(model.encode(text))}
    return msgspec.json.encode(count)


def conversation_of(fields: MessagesRequest, limits: ApiConfig, context: RequestContext) -> Conversation:
    """Raises RequestError for contradictory fields and for malformed messages."""
    thinking = fields.thinking
    return Conversation(
        messages=_messages(fields, limits, context.seal_key),
        options=_options(fields, context.max_model_len),
        template=_template(fields),
        reasoning=ReasoningOptions(is_sent=thinking is None or thinking.is_on),
        tools=_tools(fields),
        tool_choice=_tool_choice(fields),
        parallel_tool_calls=fields.tool_choice is None or not fields.tool_choice.disable_parallel_tool_use,
    )


def _messages(fields: Prompt, limits: ApiConfig, seal_key: bytes) -> tuple[neutral.Message, ...]:
    if fields.thread is not None:
        raise RequestError("thread: this server keeps no threads; send the whole conversation", param="thread")
    at_most("messages", len(fields.messages), limits.max_messages)
    messages = neutral_messages(fields.messages, seal_key)
    system = system_text(fields.system)
    return (neutral.Message(role="system", content=system), *messages) if system else messages


def _template(fields: Prompt) -> TemplateOptions:
    """A last message of the assistant is continued."""
    return TemplateOptions(
        continue_final_message=fields.messages[-1].role == "assistant",
        reasoning_effort=fields.output_config.effort,
        enable_thinking=fields.thinking.is_on if fields.thinking is not None else None,
    )


def _options(fields: MessagesRequest, max_model_len: int) -> GenerationOptions:
    return GenerationOptions(
        sampling=Sampling(
            temperature=fields.temperature,
            top_p=fields.top_p,
            top_k=fields.top_k,
            min_p=fields.min_p,
            presence_penalty=fields.presence_penalty,
            frequency_penalty=fields.frequency_penalty,
            repetition_penalty=fields.repetition_penalty,
            seed=fields.seed,
        ),
        lengths=LengthLimits(
            # agents ask for the most that Anthropic's models write: more than fits is no error
            max_tokens=min(max(1, fields.max_tokens), max_model_len),
            prompt_field="messages",
            reasoning_tokens=_thinking_budget(fields),
        ),
        logprobs=Logprobs(),
        output=_output(fields),
        delivery=Delivery(stream=fields.stream, interval=fields.stream_interval),
        stops=tuple(fields.stop_sequences),
        priority=fields.priority,
        cache_salt=fields.cache_salt or "",
    )


def _thinking_budget(fields: MessagesRequest) -> int:
    thinking = fields.thinking
    if thinking is None or thinking.type != "enabled":
        return -1
    if thinking.budget_tokens is None:
        raise RequestError("thinking.budget_tokens: missing", param="thinking.budget_tokens")
    if thinking.budget_tokens >= fields.max_tokens:
        raise RequestError(
            f"thinking.budget_tokens: must be less than max_tokens ({fields.max_tokens}), got {thinking.budget_tokens}",
            param="thinking.budget_tokens",
        )
    return thinking.budget_tokens


def _output(fields: MessagesRequest) -> StructuredOutput:
    named = (("output_config.format", fields.output_config.format), ("output_format", fields.output_format))
    return StructuredOutput(
        tuple(
            JsonFormat(field=field, schema=wanted.schema_, schema_field=f"{field}.schema")
            for field, wanted in named
            if wanted is not None
        )
    )


def _tools(fields: Prompt) -> tuple[neutral.Tool, ...]:
    return tuple(_tool(tool, f"tools.{position}") for position, tool in enumerate(fields.tools))


def _tool(tool: Tool, at: str) -> neutral.Tool:
    if tool.type != "custom":
        raise RequestError(f"{at}.type: this server does not run {tool.type[:40]!r}, only custom tools", f"{at}.type")
    schema = tool.input_schema or {}
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    shown = {name: value for name, value in function.items() if value is not None}
    return neutral.Tool(tool.name, schema, tool.strict, {"type": "function", "function": shown})


def _tool_choice(fields: MessagesRequest) -> ToolChoice:
    choice = fields.tool_choice
    match choice.type if choice is not None else "auto":
        case "any":
            return ToolChoice("required")
        case "none":
            return ToolChoice("none")
        case "tool":
            if choice is None or choice.name is None:
                raise RequestError("tool_choice.name: missing", param="tool_choice.name")
            return ToolChoice("named", (choice.name,))
        case _:
            return ToolChoice()
