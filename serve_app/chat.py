"""From a chat request to what the engine is asked, and how its tokens become text. Pure: nothing waits here."""

import msgspec

from configs.schema import ApiConfig
from engine.errors import ContextTooLong, RequestError
from engine.types import GenerateRequest
from serve_app.choice import TextRules
from serve_app.conversation import template_messages
from serve_app.protocol import ChatRequest
from serve_app.sampling import check_limits, room_for_answer, sampling_params
from serve_app.text_model import TextModel

__all__ = ["Fresh", "PreparedChat", "prepare_chat"]


class Fresh(msgspec.Struct, frozen=True):
    """What is drawn anew for each request."""

    request_id: str  # unique among all requests
    seed: int  # for a request that names none


class PreparedChat(msgspec.Struct, frozen=True):
    request: GenerateRequest
    rules: TextRules


def prepare_chat(
    chat: ChatRequest, model: TextModel, limits: ApiConfig, fresh: Fresh, max_context_len: int
) -> PreparedChat:
    """Raises RequestError for everything that the client can get wrong.

    max_context_len   tokens that the engine takes, prompt and answer together
    """
    _check(chat, limits)
    prompt = _prompt(chat, model, max_context_len)
    wanted, field = chat.wanted_tokens
    max_tokens = room_for_answer(len(prompt), wanted, field, max_context_len, param="messages")
    if wanted is not None and chat.min_tokens > wanted:
        raise RequestError(f"min_tokens is {chat.min_tokens}, more than {field} ({wanted})", param="min_tokens")
    num_logprobs = chat.top_logprobs if chat.logprobs else None
    sampling = sampling_params(chat, model, max_tokens=max_tokens, num_logprobs=num_logprobs, seed=fresh.seed)
    request = GenerateRequest(request_id=fresh.request_id, model=model.name, prompt=prompt, sampling=sampling, n=chat.n)
    rules = TextRules(
        stops=tuple(chat.stops),
        min_tokens=chat.min_tokens,
        stop_ids=frozenset(sampling.stop_token_ids),
        told_stop_ids=frozenset(chat.stop_token_ids) - frozenset(model.eos_ids),
    )
    return PreparedChat(request, rules)


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
    check_limits(chat, limits)


def _prompt(chat: ChatRequest, model: TextModel, max_context_len: int) -> tuple[int, ...]:
    if model.template is None:
        raise RequestError(f"model {model.name!r} has no chat template; use /v1/completions", param="model")
    text = model.template.render(template_messages(chat.messages), tools=None, add_generation_prompt=True)
    fewest = len(text) // model.vocabulary.longest_bytes
    if fewest > max_context_len:  # no use in tokenizing it
        raise ContextTooLong(
            f"the prompt has more than {fewest} tokens, the model takes {max_context_len}, the answer included",
            param="messages",
        )
    return model.encode(text)
