"""Adapter of /v1/chat/completions: from a ChatRequest to a Conversation, and its preparation for worker processes."""

from collections.abc import Sequence

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.requests import ChatBatchRequest, ChatFields, ChatOptions, ChatRequest, Message
from serve_app.chat.functions import naming_functions
from serve_app.chat.messages import neutral_messages
from serve_app.chat.token_prompt import token_prompt
from serve_app.chat.tools import neutral_tools, tool_choice
from serve_app.model.text_model import TextModel
from serve_app.openai.options import generation_options, length_limits
from serve_app.preparation.conversation import ConversationPreparer, PreparedConversation
from serve_app.preparation.generate_request import PreparedAnswer, RequestContext, part_of
from serve_app.request.conversation import Conversation, ReasoningOptions, TemplateOptions
from serve_app.request.conversation import Message as NeutralMessage
from serve_app.request.limits import at_most, check_limits
from serve_app.request.options import GenerationOptions, Logprobs
from serve_app.tools.tool_use import ToolUse, tool_use

__all__ = ["PreparedChat", "conversation_of", "prepare_chat", "prepare_chat_batch", "template_options"]


class PreparedChat(PreparedAnswer, frozen=True, kw_only=True):
    role: str  # of the answer
    echo: str  # the beginning of every choice
    prompt: str | None  # as rendered, for return_prompt_text
    merges_reasoning: bool  # reasoning is sent as content
    calls_functions: bool  # calls are sent as function_call


def prepare_chat(chat: ChatRequest, model: TextModel, limits: ApiConfig, context: RequestContext) -> PreparedChat:
    """Raises RequestError for every error of the client."""
    conversation = conversation_of(chat, limits)
    check_limits(conversation.options, limits, model.vocabulary.num_tokens)
    preparer = ConversationPreparer(_tools(chat, conversation, limits), model, limits)
    return _prepared_chat(chat, conversation, [preparer.prepare(conversation, context)])


def prepare_chat_batch(
    batch: ChatBatchRequest, model: TextModel, limits: ApiConfig, context: RequestContext
) -> PreparedChat:
    """Prepares all conversations as one answer. Raises RequestError."""
    prompt_logprobs = ("prompt_logprobs", batch.prompt_logprobs is not None)
    for field, wrong in (("n", batch.n != 1), ("stream", batch.stream), ("echo", batch.echo), prompt_logprobs):
        if wrong:
            raise RequestError(f"{field}: a batch has one choice for each conversation, sent at once", param=field)
    at_most("messages", len(batch.messages), limits.max_choices, "conversations")
    options = {name: value for name, value in batch if name != "messages"}
    first = ChatRequest.model_construct(**options, messages=batch.messages[0])
    conversation = conversation_of(first, limits)
    check_limits(conversation.options, limits, model.vocabulary.num_tokens)
    preparer = ConversationPreparer(_tools(first, conversation, limits), model, limits)
    prepared = [
        preparer.prepare(
            msgspec.structs.replace(conversation, messages=_messages(messages, limits)),
            part_of(context, position, len(batch.messages)),
        )
        for position, messages in enumerate(batch.messages)
    ]
    return _prepared_chat(first, conversation, prepared)


def conversation_of(chat: ChatRequest, limits: ApiConfig) -> Conversation:
    """Raises RequestError for contradictory fields and for malformed messages."""
    if chat.top_logprobs and not chat.logprobs:
        raise RequestError("top_logprobs: needs logprobs to be true", param="top_logprobs")
    at_most("top_logprobs", chat.top_logprobs, limits.max_logprobs)
    options = _generation_options(chat)
    if chat.functions and chat.tools:
        raise RequestError("functions: not together with tools, which is their newer name", param="functions")
    return Conversation(
        messages=_messages(chat.messages, limits),
        options=options,
        template=template_options(chat),
        reasoning=ReasoningOptions(chat.sends_reasoning, chat.merges_reasoning),
        tools=neutral_tools(chat),
        tool_choice=tool_choice(chat),
        parallel_tool_calls=chat.parallel_tool_calls and not chat.functions,
        token_prompt=token_prompt(chat),
        echo=chat.echo,
    )


def template_options(chat: ChatFields) -> TemplateOptions:
    return TemplateOptions(
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
        add_special_tokens=bool(chat.add_special_tokens),
        documents=chat.documents,
        chat_template=chat.chat_template,
        kwargs=chat.chat_template_kwargs,
        reasoning_effort=chat.effort,
        enable_thinking=chat.enables_thinking,
    )


def _generation_options(chat: ChatRequest) -> GenerationOptions:
    max_tokens, field = chat.wanted_tokens
    lengths = length_limits(
        chat,
        chat,
        max_tokens=max_tokens,
        field=field,
        prompt_field=chat.token_field or "messages",
        reasoning_tokens=chat.reasoning_tokens,
    )
    logprobs = Logprobs(
        num_top=chat.top_logprobs if chat.logprobs else None,
        token_ids=tuple(chat.logprob_token_ids),
        num_prompt=chat.prompt_logprobs,
    )
    return generation_options(chat, lengths, logprobs)


def _messages(messages: Sequence[Message], limits: ApiConfig) -> tuple[NeutralMessage, ...]:
    at_most("messages", len(messages), limits.max_messages)
    return neutral_messages(messages)


def _tools(chat: ChatOptions, conversation: Conversation, limits: ApiConfig) -> ToolUse:
    try:
        return tool_use(conversation, limits)
    except RequestError as fault:
        raise naming_functions(fault) if chat.functions else fault from None


def _prepared_chat(
    chat: ChatOptions, conversation: Conversation, prepared: Sequence[PreparedConversation]
) -> PreparedChat:
    first = prepared[0]
    return PreparedChat(
        parts=tuple(one.request for one in prepared),
        delivery=conversation.options.delivery,
        num_choices=conversation.options.n,
        has_seed=conversation.options.sampling.seed is not None,
        role=first.role,
        echo=first.echo,
        prompt=first.prompt if chat.return_prompt_text else None,
        merges_reasoning=conversation.reasoning.is_content,
        calls_functions=bool(chat.functions),
    )
