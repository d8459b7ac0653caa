"""From a completion request to what the engine is asked: one request for each prompt. Pure: nothing waits here."""

from collections.abc import Sequence

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.limits import at_most, check_limits
from serve_app.api.requests import CompletionRequest
from serve_app.completion.echo import NO_ECHO, Echo, echo_of
from serve_app.generation.prompt import check_text_fits
from serve_app.generation.request import Fresh, Prepared, Wanted, part_of, prepare
from serve_app.generation.sampling import check_ids
from serve_app.grammar.constraint import constraint_of
from serve_app.model.text_model import TextModel

__all__ = ["PreparedCompletion", "prepare_completion"]


class PreparedCompletion(msgspec.Struct, frozen=True):
    generations: list[Prepared]  # one for each prompt
    echoes: list[Echo]  # what each choice begins with, prompt by prompt


def prepare_completion(
    fields: CompletionRequest, model: TextModel, limits: ApiConfig, fresh: Fresh, max_model_len: int
) -> PreparedCompletion:
    """Raises RequestError for everything that the client can get wrong."""
    check_limits(fields, limits, model.vocabulary.num_tokens)
    prompts = fields.prompts
    at_most("prompt", len(prompts) * fields.n, limits.max_choices, "choices of all prompts")
    at_most("logprobs", fields.logprobs or 0, limits.max_logprobs)
    if fields.suffix:
        raise RequestError("suffix: this model cannot fill in before a suffix", param="suffix")
    if fields.max_tokens == 0 and not fields.echo:
        raise RequestError("max_tokens: 0 is for prompts that come back; set echo, or at least 1", param="max_tokens")
    scored = fields.echo and fields.logprobs is not None
    if fields.use_beam_search and (scored or fields.max_tokens == 0):
        raise RequestError("echo: with use_beam_search neither logprobs nor max_tokens 0", param="echo")
    tokens = [_prompt(prompt, fields, model, max_model_len) for prompt in prompts]
    # the engine has no answer without a token
    wanted = Wanted(
        max(1, fields.max_tokens),
        "max_tokens",
        "prompt",
        fields.logprobs,
        num_prompt_logprobs=fields.logprobs if scored else None,
        num_prompts=len(prompts),
    )
    constraint = constraint_of(fields, limits)
    generations = [
        prepare(fields, prompt, model, part, wanted, max_model_len, starts_text=False, constraint=constraint)
        for prompt, part in zip(tokens, _parts(fresh, len(tokens)), strict=True)
    ]
    echoes = [
        echo_of(prompt, part.request.prompt, model, scored=scored) if fields.echo else NO_ECHO
        for prompt, part in zip(prompts, generations, strict=True)
    ]
    return PreparedCompletion(generations, [echo for echo in echoes for _ in range(fields.n)])


def _parts(fresh: Fresh, num_prompts: int) -> Sequence[Fresh]:
    """What is drawn for each prompt."""
    if num_prompts == 1:
        return [fresh]
    return [part_of(fresh, part) for part in range(num_prompts)]


def _prompt(
    prompt: str | list[int], fields: CompletionRequest, model: TextModel, max_model_len: int
) -> tuple[int, ...]:
    if isinstance(prompt, list):
        check_ids("prompt", prompt, model.vocabulary.num_tokens)
        return tuple(prompt)
    check_text_fits(prompt, fields, model, max_model_len, param="prompt")
    tokens = model.encode(prompt, add_special_tokens=fields.add_special_tokens)
    if not tokens:
        raise RequestError("prompt: it has no tokens", param="prompt")
    return tokens
