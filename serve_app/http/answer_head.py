"""What is said at the beginning of an answer, and again in every piece of it."""

import msgspec

__all__ = ["AnswerHead"]


class AnswerHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same in every piece of one answer."""

    id: str
    created: int  # unix seconds
    model: str
    role: str = "assistant"
    n: int = 1
    fingerprint: str | None = None
    num_logprobs: int | None = None  # alternatives per token; None: no logprobs
    num_prompt_logprobs: int | None = None  # the same of the prompt, in a field of its own
    echo: str = ""  # every choice's text begins with it
    prompt_token_ids: tuple[int, ...] | None = None  # told, as are the answer's, if not None
    prompt_text: str | None = None  # told if not None
    merges_reasoning: bool = False  # thinking is told as content
    calls_functions: bool = False  # calls are told as they were before tools
    shows_special: bool = False  # special tokens are part of the text
    names_ids: bool = False  # logprobs name tokens as token_id:N
