"""Adapter of /v1/completions: from a CompletionRequest to TextPrompts, and its preparation for worker processes."""

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.requests import CompletionRequest
from serve_app.completion.echo import NO_ECHO, Echo, echo_of
from serve_app.model.text_model import TextModel
from serve_app.openai.options import generation_options, length_limits
from serve_app.preparation.generate_request import PreparedAnswer, RequestContext
from serve_app.preparation.text_prompts import prepare_text_prompts
from serve_app.request.limits import at_most, check_limits
from serve_app.request.options import Logprobs
from serve_app.request.text_prompts import TextPrompts

__all__ = ["PreparedCompletion", "prepare_completion"]


class PreparedCompletion(PreparedAnswer, frozen=True, kw_only=True):
    echoes: tuple[Echo, ...]  # the beginning of each choice, prompt by prompt
    num_logprobs: int | None  # most likely tokens at each position; None: no logprobs
    num_prompt_logprobs: int | None  # the same of the prompt, in a field of its own
    shows_special: bool  # special tokens are part of the text


def prepare_completion(
    fields: CompletionRequest, model: TextModel, limits: ApiConfig, context: RequestContext
) -> PreparedCompletion:
    """Raises RequestError for every error of the client."""
    asked = _text_prompts(fields)
    check_limits(asked.options, limits, model.vocabulary.num_tokens)
    at_most("prompt", len(asked.prompts) * fields.n, limits.max_choices, "choices of all prompts")
    at_most("logprobs", fields.logprobs or 0, limits.max_logprobs)
    _check(fields)
    parts = prepare_text_prompts(asked, model, limits, context)
    scored = asked.options.logprobs.num_echoed is not None
    echoes = [
        echo_of(prompt, part.request.prompt, model, scored=scored) if asked.echo else NO_ECHO
        for prompt, part in zip(asked.prompts, parts, strict=True)
    ]
    return PreparedCompletion(
        parts=tuple(parts),
        delivery=asked.options.delivery,
        num_choices=fields.n,
        has_seed=fields.seed is not None,
        echoes=tuple(echo for echo in echoes for _ in range(fields.n)),
        num_logprobs=fields.logprobs,
        num_prompt_logprobs=fields.prompt_logprobs,
        shows_special=not fields.skip_special_tokens,
    )


def _text_prompts(fields: CompletionRequest) -> TextPrompts:
    """Raises RequestError for contradictory fields."""
    # the engine generates at least one token
    lengths = length_limits(
        fields, fields, max_tokens=max(1, fields.max_tokens), field="max_tokens", prompt_field="prompt"
    )
    logprobs = Logprobs(
        num_top=fields.logprobs,
        token_ids=tuple(fields.logprob_token_ids),
        num_prompt=fields.prompt_logprobs,
        num_echoed=fields.logprobs if fields.echo else None,
    )
    return TextPrompts(
        prompts=tuple(prompt if isinstance(prompt, str) else tuple(prompt) for prompt in fields.prompts),
        options=generation_options(fields, lengths, logprobs),
        add_special_tokens=fields.add_special_tokens,
        echo=fields.echo,
        scores_only=fields.max_tokens == 0,
    )


def _check(fields: CompletionRequest) -> None:
    if fields.suffix:
        raise RequestError("suffix: this model cannot fill in before a suffix", param="suffix")
    if fields.max_tokens == 0 and not fields.echo:
        raise RequestError("max_tokens: 0 is for prompts that come back; set echo, or at least 1", param="max_tokens")
    scored = fields.echo and fields.logprobs is not None
    if fields.use_beam_search and (scored or fields.max_tokens == 0):
        raise RequestError("echo: with use_beam_search neither logprobs nor max_tokens 0", param="echo")
