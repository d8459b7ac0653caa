"""Prompts to be continued: texts, or token ids."""

import msgspec

from serve_app.request.options import GenerationOptions

__all__ = ["TextPrompts"]


class TextPrompts(msgspec.Struct, frozen=True, kw_only=True):
    """Several prompts are answered together, with `options.n` choices each."""

    prompts: tuple[str | tuple[int, ...], ...]
    options: GenerationOptions
    add_special_tokens: bool = True
    echo: bool = False  # every answer begins with its prompt
    scores_only: bool = False  # nothing but the prompt: the one token that the engine must generate is left out
