"""The operator's limits of any request (`api.*` of the config)."""

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.request.options import GenerationOptions

__all__ = ["at_most", "check_limits"]


def check_limits(options: GenerationOptions, limits: ApiConfig, num_tokens: int) -> None:
    """Raises RequestError that names the field and the limit. `num_tokens` is the size of the vocabulary."""
    sampling, num_prompt = options.sampling, options.logprobs.num_prompt
    if num_prompt is not None:
        if options.delivery.stream:
            raise RequestError("prompt_logprobs: not with stream", param="prompt_logprobs")
        at_most("prompt_logprobs", num_tokens if num_prompt < 0 else num_prompt, limits.max_logprobs)
    at_most("n", options.n, limits.max_choices)
    at_most("stop", len(options.stops), limits.max_stop, "strings")
    for stop in options.stops:
        at_most("stop", len(stop), limits.max_stop_chars, "characters in one string")
    at_most("logit_bias", len(sampling.logit_bias), limits.max_logit_bias, "entries")
    at_most("stop_token_ids", len(sampling.stop_token_ids), limits.max_logit_bias, "ids")
    at_most("logprob_token_ids", len(options.logprobs.token_ids), limits.max_logit_bias, "ids")
    at_most("bad_words", len(sampling.bad_words), limits.max_logit_bias, "words")
    for word in sampling.bad_words:
        at_most("bad_words", len(word), limits.max_stop_chars, "characters in one word")


def at_most(field: str, value: int, limit: int, unit: str = "") -> None:
    """Raises RequestError."""
    if value > limit:
        raise RequestError(f"{field}: {value} is more than this server allows ({limit}{unit and ' ' + unit})", field)
