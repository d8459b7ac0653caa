"""Text prompts: texts or token ids to be completed."""

import msgspec

from serve_app.request.options import GenerationOptions

__all__ = ["TextPrompts"]


class TextPrompts(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts of one answer, with `options.n` choices each."""

    prompts: tuple[str | tuple[int, ...], ...]
    options: GenerationOptions
    add_special_tokens: bool = True
    echo: bool = False  # every answer begins with its prompt
    scores_only: bool = False  # only the prompt is sent: the one token that the engine must generate is dropped
