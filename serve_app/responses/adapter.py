"""Adapter of /v1/responses: from a ResponsesRequest to a Conversation, and its preparation for worker processes."""

from typing import Any

import msgspec
from pydantic import TypeAdapter

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.model.messages import template_messages
from serve_app.model.text_model import TextModel
from serve_app.preparation.conversation import ConversationPreparer, chat_prompt
from serve_app.preparation.generate_request import PreparedAnswer, RequestContext
from serve_app.request.conversation import Conversation, Message, TemplateOptions
from serve_app.request.limits import at_most, check_limits
from serve_app.request.options import Delivery, GenerationOptions, LengthLimits, Logprobs, Sampling
from serve_app.request.output_format import JsonFormat, StructuredOutput
from serve_app.responses.items import neutral_messages, with_ids, with_instructions
from serve_app.responses.requests import InputFields, InputItem, InputTokensRequest, ResponsesRequest
from serve_app.responses.tools import CallForm, call_forms, neutral_tool_choice, neutral_tools
from serve_app.responses.truncation import prepare_truncated
from serve_app.tools.tool_use import ToolUse, tool_use

__all__ = ["PreparedResponse", "conversation_of", "count_input_tokens", "prepare_response"]

ENCRYPTED, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"
MAX_METADATA, MAX_METADATA_KEY_CHARS, MAX_METADATA_CHARS = 16, 64, 512
ANY_OBJECT = {"type": "object"}
HISTORY = TypeAdapter(list[InputItem])
REFERENCES = TypeAdapter(dict[str, InputItem])


class PreparedResponse(PreparedAnswer, frozen=True, kw_only=True):
    echoed: bytes  # the request's fields that the response has too, as JSON
    input_items: bytes  # the request's own input items, as a JSON array
    call_forms: dict[str, CallForm]  # by the name that the model knows
    sends_logprobs: bool
    seals_reasoning: bool
    summarizes: bool  # reasoning is sent as its own summary, which clients show
    seal_key: bytes  # of the tenant
    is_stored: bool
    is_background: bool
    conversation_id: str | None

    @property
    def is_resumable(self) -> bool:
        """A background response is, for the ingress that takes it over (background.py)."""
        return self.is_background or super().is_resumable


def prepare_response(
    fields: ResponsesRequest, model: TextModel, limits: ApiConfig, context: RequestContext
) -> PreparedResponse:
    """Raises RequestError for every error of the client."""
    _check(fields, limits)
    conversation = conversation_of(fields, limits, context)
    check_limits(conversation.options, limits, model.vocabulary.num_tokens)
    preparer = ConversationPreparer(_tool_use(fields, conversation, limits), model, limits)
    if fields.truncation == "auto":
        part = prepare_truncated(preparer, conversation, context).request
    else:
        part = preparer.prepare(conversation, context).request
    sampling = part.request.sampling
    return PreparedResponse(
        parts=(part,),
        delivery=conversation.options.delivery,
        num_choices=1,
        has_seed=fields.seed is not None,
        echoed=msgspec.json.encode(_echoed(fields, sampling.temperature, sampling.top_p)),
        input_items=msgspec.json.encode(with_ids([_shown(item) for item in _items(fields, context)])),
        call_forms=call_forms(fields.tools),
        sends_logprobs=conversation.options.logprobs.num_top is not None,
        seals_reasoning=ENCRYPTED in fields.include,
        summarizes=fields.reasoning.summary is not None,
        seal_key=context.seal_key,
        is_stored=fields.store,
        is_background=fields.background,
        conversation_id=fields.conversation_id,
    )


def conversation_of(fields: ResponsesRequest, limits: ApiConfig, context: RequestContext) -> Conversation:
    """Raises RequestError for contradictory fields and for malformed items."""
    return Conversation(
        messages=_messages(fields, limits, context),
        options=_options(fields, limits),
        template=_template(fields),
        tools=neutral_tools(fields.tools),
        tool_choice=neutral_tool_choice(fields.tool_choice),
        parallel_tool_calls=fields.parallel_tool_calls,
    )


def count_input_tokens(
    fields: InputTokensRequest, model: TextModel, limits: ApiConfig, context: RequestContext
) -> bytes:
    """The number of the prompt's tokens, as JSON."""
    at_most("tools", len(fields.tools), limits.max_tools)
    tools = [tool.definition for tool in neutral_tools(fields.tools)]
    messages = template_messages(_messages(fields, limits, context))
    count = len(model.encode(chat_prompt(_template(fields), messages, tools, model, limits)))
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": count})


def _messages(fields: InputFields, limits: ApiConfig, context: RequestContext) -> tuple[Message, ...]:
    if fields.previous_response_id and fields.conversation is not None:
        raise RequestError("conversation: not together with previous_response_id", param="conversation")
    history = HISTORY.validate_json(context.earlier.items) if context.earlier.items else []
    items = _items(fields, context)
    at_most("input", len(history) + len(items), limits.max_messages, "items, those before it included")
    earlier = neutral_messages(history, context.seal_key, "previous_response_id")
    own = neutral_messages(items, context.seal_key, "input")
    messages = with_instructions(fields.instructions, (*earlier, *own))
    if not messages:
        raise RequestError("input: there must be at least one item", param="input")
    return messages


def _items(fields: InputFields, context: RequestContext) -> list[InputItem]:
    """The input, with the items that it refers to by their ids in their places. Raises RequestError."""
    references = context.earlier.references
    known = REFERENCES.validate_json(references) if references else {}
    found = []
    for index, item in enumerate(fields.items):
        if item.type != "item_reference":
            found.append(item)
        elif item.id in known:
            found.append(known[item.id])
        else:
            raise RequestError(f"input.{index}.id: there is no item {str(item.id)[:256]!r}", param=f"input.{index}.id")
    return found


def _template(fields: InputFields) -> TemplateOptions:
    effort = fields.reasoning.effort
    return TemplateOptions(reasoning_effort=effort, enable_thinking=effort != "none" if effort is not None else None)


def _tool_use(fields: ResponsesRequest, conversation: Conversation, limits: ApiConfig) -> ToolUse:
    tools = tool_use(conversation, limits)
    wanted = [number for number in (tools.max_calls, fields.max_tool_calls) if number is not None]
    return msgspec.structs.replace(tools, max_calls=min(wanted, default=None))


def _options(fields: ResponsesRequest, limits: ApiConfig) -> GenerationOptions:
    at_most("top_logprobs", fields.top_logprobs, limits.max_logprobs)
    wants_logprobs = fields.top_logprobs > 0 or LOGPROBS in fields.include
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
            max_tokens=fields.max_output_tokens,
            field="max_output_tokens",
            prompt_field="input",
            reasoning_tokens=fields.reasoning.max_tokens,
        ),
        logprobs=Logprobs(num_top=fields.top_logprobs if wants_logprobs else None),
        output=_output(fields),
        delivery=Delivery(stream=fields.stream, interval=fields.stream_interval),
        stops=(fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop),
        priority=fields.priority,
        cache_salt=fields.cache_salt or "",
    )


def _output(fields: ResponsesRequest) -> StructuredOutput:
    wanted, field = fields.text.format, "text.format"
    if wanted.type == "text":
        return StructuredOutput()
    schema: dict[str, Any] | None = ANY_OBJECT if wanted.type == "json_object" else wanted.schema_
    strict = wanted.strict is not False
    return StructuredOutput((JsonFormat(field=field, schema=schema, schema_field=f"{field}.schema", strict=strict),))


def _check(fields: ResponsesRequest, limits: ApiConfig) -> None:
    if fields.prompt is not None:
        raise RequestError("prompt: this server keeps no prompt templates; send instructions and input", param="prompt")
    if fields.background and not fields.store:
        raise RequestError("background: needs store to be true", param="background")
    at_most("tools", len(fields.tools), limits.max_tools)
    at_most("metadata", len(fields.metadata), MAX_METADATA, "pairs")
    for key, value in fields.metadata.items():
        at_most("metadata", len(key), MAX_METADATA_KEY_CHARS, "characters in one key")
        at_most("metadata", len(value), MAX_METADATA_CHARS, "characters in one value")


def _echoed(fields: ResponsesRequest, temperature: float, top_p: float) -> dict[str, Any]:
    conversation = fields.conversation_id
    return {
        "background": fields.background,
        "conversation": {"id": conversation} if conversation is not None else None,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "max_tool_calls": fields.max_tool_calls,
        "metadata": fields.metadata,
        "parallel_tool_calls": fields.parallel_tool_calls,
        "previous_response_id": fields.previous_response_id,
        "prompt_cache_key": fields.prompt_cache_key,
        "reasoning": {"effort": fields.reasoning.effort, "summary": fields.reasoning.summary},
        "safety_identifier": fields.safety_identifier,
        "service_tier": fields.service_tier or "auto",
        "store": fields.store,
        "temperature": temperature,
        "text": _shown(fields.text),
        "tool_choice": _shown_choice(fields),
        "tools": [_shown_tool(tool) for tool in fields.tools],
        "top_logprobs": fields.top_logprobs,
        "top_p": top_p,
        "truncation": fields.truncation,
        "user": fields.user,
    }


def _shown_choice(fields: ResponsesRequest) -> Any:
    choice = fields.tool_choice
    return choice if isinstance(choice, str) else choice.model_dump(exclude_unset=True)


def _shown_tool(tool: Any) -> dict[str, Any]:
    shown = _shown(tool)
    return {"description": None, "parameters": None, "strict": None, **shown} if tool.type == "function" else shown


def _shown(model: Any) -> dict[str, Any]:
    shown: dict[str, Any] = model.model_dump(by_alias=True, exclude_none=True)
    return shown
