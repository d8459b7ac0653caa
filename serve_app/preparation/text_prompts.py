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
from serve_app.request.text_prompts import TextPrompts

__all__ = ["prepare_text_prompts"]


def prepare_text_prompts(
    asked: TextPrompts, model: TextModel, limits: ApiConfig, context: RequestContext
) -> list[PreparedRequest]:
    """Raises RequestError for every error of the client."""
    tokens = [_tokens(prompt, asked, model, context.max_model_len) for prompt in asked.prompts]
    answer = TextRules(starts_text=False, constraint=constraint_of(asked.options.output, limits))
    prepared = [
        prepare(asked.options, prompt, model, part, answer)
        for prompt, part in zip(tokens, _parts(context, len(tokens)), strict=True)
    ]
    return [msgspec.structs.replace(part, scores_only=True) for part in prepared] if asked.scores_only else prepared


def _parts(context: RequestContext, num_prompts: int) -> Sequence[RequestContext]:
    """The context of each prompt."""
    if num_prompts == 1:
        return [context]
    return [part_of(context, part, num_prompts) for part in range(num_prompts)]


def _tokens(prompt: str | tuple[int, ...], asked: TextPrompts, model: TextModel, max_model_len: int) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        check_ids("prompt", prompt, model.vocabulary.num_tokens)
        return prompt
    check_text_fits(prompt, asked.options.lengths, model, max_model_len, param="prompt")
    tokens = model.encode(prompt, add_special_tokens=asked.add_special_tokens)
    if not tokens:
        raise RequestError("prompt: it has no tokens", param="prompt")
    return tokens
