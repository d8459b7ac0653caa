"""From TextPrompts to the engine's requests, one for each prompt: tokens, grammar. Pure."""

from collections.abc import Sequence

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.generation.choice import TextRules
from serve_app.grammar.constraint import constraint_of
from serve_app.model.text_model import TextModel
from serve_app.preparation.generate_request import PreparedRequest, RequestContext, part_of, prepare
from serve_app.preparation.prompt import check_text_fits
from serve_app.preparation.sampling import check_ids
from serve_app.request.options import GenerationOptions
from serve_app.request.text_prompts import TextPrompts

__all__ = ["prepare_text_prompts"]


def prepare_text_prompts(
    asked: TextPrompts, model: TextModel, limits: ApiConfig, context: RequestContext
) -> list[PreparedRequest]:
    """Raises RequestError for every error of the client."""
    num_prompts = len(asked.prompts)
    fields = ["prompt"] if num_prompts == 1 else [f"prompt.{index}" for index in range(num_prompts)]
    tokens = [
        _tokens(field, prompt, asked, model, context.max_model_len)
        for field, prompt in zip(fields, asked.prompts, strict=True)
    ]
    answer = TextRules(starts_text=False, constraint=constraint_of(asked.options.output, limits))
    prepared = [
        prepare(_of_prompt(asked.options, field), prompt, model, part, answer)
        for field, prompt, part in zip(fields, tokens, _parts(context, num_prompts), strict=True)
    ]
    return [msgspec.structs.replace(part, scores_only=True) for part in prepared] if asked.scores_only else prepared


def _parts(context: RequestContext, num_prompts: int) -> Sequence[RequestContext]:
    """The context of each prompt."""
    if num_prompts == 1:
        return [context]
    return [part_of(context, part, num_prompts) for part in range(num_prompts)]


def _of_prompt(options: GenerationOptions, field: str) -> GenerationOptions:
    """The options, with the field that errors name."""
    lengths = msgspec.structs.replace(options.lengths, prompt_field=field)
    return msgspec.structs.replace(options, lengths=lengths)


def _tokens(
    field: str, prompt: str | tuple[int, ...], asked: TextPrompts, model: TextModel, max_model_len: int
) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        check_ids(field, prompt, model.vocabulary.num_tokens)
        return prompt
    check_text_fits(prompt, asked.options.lengths, model, max_model_len, param=field)
    tokens = model.encode(prompt, add_special_tokens=asked.add_special_tokens)
    if not tokens:
        raise RequestError(f"{field}: it has no tokens", param=field)
    return tokens
