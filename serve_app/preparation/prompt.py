"""Prompt tokens: truncation, and the check against the context length."""

from engine.errors import ContextTooLong, RequestError
from serve_app.model.text_model import TextModel
from serve_app.request.options import LengthLimits

__all__ = ["check_text_fits", "max_answer_tokens", "truncated"]


def check_text_fits(text: str, limits: LengthLimits, model: TextModel, context_len: int, param: str) -> None:
    """Refuses a text that is too long in any tokenization, without tokenizing it."""
    fewest = len(text) // model.vocabulary.longest_bytes
    if fewest > context_len and limits.truncate_prompt is None:
        raise _too_long(f"more than {fewest}", context_len, param)


def truncated(prompt: tuple[int, ...], limits: LengthLimits, context_len: int) -> tuple[int, ...]:
    """The prompt after truncation; -1 leaves room for max_tokens, or for min_tokens, at least one."""
    keep = limits.truncate_prompt
    if keep is None:
        return prompt
    if keep == 0 or keep > context_len:
        raise RequestError(
            f"truncate_prompt_tokens: must be -1 or between 1 and the model's context ({context_len}), not {keep}",
            param="truncate_prompt_tokens",
        )
    if keep < 0:
        keep = max(1, context_len - (limits.max_tokens or max(1, limits.min_tokens)))
    return prompt[-keep:] if limits.truncation_side == "left" else prompt[:keep]


def max_answer_tokens(num_prompt: int, limits: LengthLimits, context_len: int) -> int:
    """The most tokens that the answer may have.

    |----- prompt -----|------- answer -------|
    |<------------- context_len ------------->|
    """
    wanted, field = limits.max_tokens, limits.field
    if wanted is not None and wanted > context_len:
        raise RequestError(f"{field} is {wanted}, the model's context has {context_len} tokens", param=field)
    if num_prompt >= context_len:
        raise _too_long(str(num_prompt), context_len, limits.prompt_field)
    room = context_len - num_prompt
    if limits.min_tokens > room:
        raise RequestError(
            f"min_tokens is {limits.min_tokens}, and the prompt leaves room for {room} in the model's context",
            param="min_tokens",
        )
    return room if wanted is None else min(wanted, room)


def _too_long(num_prompt: str, context_len: int, param: str) -> ContextTooLong:
    """Clients match the message's first words, and then shorten the chat or take another model."""
    return ContextTooLong(
        f"This model's maximum context length is {context_len} tokens for prompt and answer together, "
        f"and the prompt has {num_prompt}: shorten it or set truncate_prompt_tokens",
        param=param,
    )
