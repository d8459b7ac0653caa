"""Token usage of an answer."""

import msgspec

__all__ = ["Usage"]


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int  # counted once, however many choices there are
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int | None = None  # of the completion's; None: not looked for
    num_migrations: int = 0  # replicas that the request lost on its way
    mixed_kernels: bool = False  # engines with other kernels went on with it
