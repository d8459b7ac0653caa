"""What the operator bounds in a request."""

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.requests import GenerationFields

__all__ = ["at_most", "check_limits", "max_items"]


def check_limits(fields: GenerationFields, limits: ApiConfig, num_tokens: int) -> None:
    """Raises RequestError that names the field and the limit. `num_tokens` is the size of the vocabulary."""
    if fields.stream_options is not None and not fields.stream:
        raise RequestError("stream_options: needs stream to be true", param="stream_options")
    if fields.prompt_logprobs is not None:
        if fields.stream:
            raise RequestError("prompt_logprobs: not with stream", param="prompt_logprobs")
        count = num_tokens if fields.prompt_logprobs < 0 else fields.prompt_logprobs
        at_most("prompt_logprobs", count, limits.max_logprobs)
    at_most("n", fields.n, limits.max_choices)
    at_most("stop", len(fields.stops), limits.max_stop, "strings")
    for stop in fields.stops:
        at_most("stop", len(stop), limits.max_stop_chars, "characters in one string")
    at_most("logit_bias", len(fields.logit_bias), limits.max_logit_bias, "entries")
    at_most("stop_token_ids", len(fields.stop_token_ids), limits.max_logit_bias, "ids")
    at_most("logprob_token_ids", len(fields.logprob_token_ids), limits.max_logit_bias, "ids")
    at_most("bad_words", len(fields.bad_words), limits.max_logit_bias, "words")
    for word in fields.bad_words:
        at_most("bad_words", len(word), limits.max_stop_chars, "characters in one word")


def max_items(limits: ApiConfig) -> dict[str, int]:
    """By field: what is refused before each item is looked at."""
    return {
        "messages": limits.max_messages,
        "stop": limits.max_stop,
        "tools": limits.max_tools,
        "functions": limits.max_tools,
        "documents": limits.max_messages,
        "logit_bias": limits.max_logit_bias,
        "stop_token_ids": limits.max_logit_bias,
        "logprob_token_ids": limits.max_logit_bias,
        "bad_words": limits.max_logit_bias,
    }


def at_most(field: str, value: int, limit: int, unit: str = "") -> None:
    if value > limit:
        raise RequestError(f"{field}: {value} is more than this server allows ({limit}{unit and ' ' + unit})", field)
