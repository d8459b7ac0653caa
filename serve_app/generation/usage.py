"""Token usage of an answer: prompt, cached, completion and reasoning tokens."""

import msgspec

__all__ = ["Usage"]


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int  # counted once for all choices
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int | None = None  # of completion_tokens; None: no reasoning parser
    num_migrations: int = 0  # request migrations
    mixed_kernels: bool = False  # it migrated to other kernels
