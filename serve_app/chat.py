"""From a chat request to what the engine is asked, and how its tokens become text. Pure: nothing waits here."""

from typing import Any

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from engine.types import GenerateRequest
from serve_app.choice import TextRules
from serve_app.conversation import template_messages
from serve_app.prompt import check_text_fits, room_for_answer, truncated
from serve_app.protocol import ChatRequest
from serve_app.sampling import check_limits, sampling_params
from serve_app.template import RESERVED
from serve_app.text_model import TextModel

__all__ = ["Fresh", "PreparedChat", "prepare_chat"]


class Fresh(msgspec.Struct, frozen=True):
    """What is drawn anew for each request."""

    request_id: str  # unique among all requests
    seed: int  # for a request that names none


class PreparedChat(msgspec.Struct, frozen=True):
    request: GenerateRequest
    rules: TextRules
    role: str  # of the answer
    echo: str  # what every choice begins with


def prepare_chat(
    chat: ChatRequest, model: TextModel, limits: ApiConfig, fresh: Fresh, max_context_len: int
) -> PreparedChat:
    """Raises RequestError for everything that the client can get wrong.

    max_context_len   tokens that the engine takes, prompt and answer together
    """
    _check(chat, limits)
    messages = template_messages(chat.messages)
    wanted, field = chat.wanted_tokens
    prompt = _prompt(chat, messages, model, max_context_len)
    prompt = truncated(prompt, chat, wanted, max_context_len)
    max_tokens = room_for_answer(len(prompt), wanted, field, max_context_len, param="messages")
    if wanted is not None and chat.min_tokens > wanted:
        raise RequestError(f"min_tokens is {chat.min_tokens}, more than {field} ({wanted})", param="min_tokens")
    num_logprobs = chat.top_logprobs if chat.logprobs else None
    sampling = sampling_params(chat, model, max_tokens=max_tokens, num_logprobs=num_logprobs, seed=fresh.seed)
    request = GenerateRequest(
        request_id=fresh.request_id,
        model=model.name,
        prompt=prompt,
        sampling=sampling,
        n=chat.n,
        priority=chat.priority,
        cache_salt=chat.cache_salt or "",
    )
    rules = TextRules(
        stops=tuple(chat.stops),
        include_stop=chat.include_stop_str_in_output,
        min_tokens=chat.min_tokens,
        stop_ids=frozenset(sampling.stop_token_ids),
        told_stop_ids=frozenset(chat.stop_token_ids) - frozenset(model.eos_ids),
        skip_special=chat.skip_special_tokens,
        starts_text=not chat.continue_final_message,
    )
    last = messages[-1]
    role = "assistant" if _opens_answer(chat) else last["role"]
    return PreparedChat(request, rules, role, last["content"] if chat.echo and last["role"] == role else "")


def _opens_answer(chat: ChatRequest) -> bool:
    return not chat.continue_final_message if chat.add_generation_prompt is None else chat.add_generation_prompt


def _check(chat: ChatRequest, limits: ApiConfig) -> None:
    if len(chat.messages) > limits.max_messages:
        raise RequestError(
            f"messages: {len(chat.messages)} is more than this server allows ({limits.max_messages})", param="messages"
        )
    if chat.stream_options is not None and not chat.stream:
        raise RequestError("stream_options: needs stream to be true", param="stream_options")
    if chat.top_logprobs and not chat.logprobs:
        raise RequestError("top_logprobs: needs logprobs to be true", param="top_logprobs")
    if chat.top_logprobs > limits.max_top_logprobs:
        raise RequestError(
            f"top_logprobs: {chat.top_logprobs} is more than this server allows ({limits.max_top_logprobs})",
            param="top_logprobs",
        )
    if chat.continue_final_message and chat.add_generation_prompt:
        raise RequestError(
            "continue_final_message: cannot be true together with add_generation_prompt", param="continue_final_message"
        )
    if chat.chat_template is not None and not limits.trust_request_chat_template:
        raise RequestError(
            "chat_template: this server does not run templates of clients (api.trust_request_chat_template)",
            param="chat_template",
        )
    if reserved := sorted(RESERVED & chat.chat_template_kwargs.keys()):
        raise RequestError(f"chat_template_kwargs: may not set {', '.join(reserved)}", param="chat_template_kwargs")
    check_limits(chat, limits)


def _prompt(
    chat: ChatRequest, messages: list[dict[str, Any]], model: TextModel, max_context_len: int
) -> tuple[int, ...]:
    template = model.template
    if chat.chat_template is not None:
        template = model.with_template(chat.chat_template)
    if template is None:
        raise RequestError(f"model {model.name!r} has no chat template; use /v1/completions", param="model")
    text = template.render(
        messages,
        tools=None,
        documents=chat.documents,
        add_generation_prompt=_opens_answer(chat),
        continue_final_message=chat.continue_final_message,
        **chat.chat_template_kwargs,
    )
    check_text_fits(text, chat, model, max_context_len, param="messages")
    return model.encode(text, add_special_tokens=chat.add_special_tokens)
