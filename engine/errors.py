"""Errors: what can go wrong, and whose fault it is.

MantaError
├── RequestError            the client's: answered with 4xx, `param` names the field
│   ├── ContextTooLong      more tokens than the model or the KV pool takes
│   └── UnknownModel        no such model is served
├── Overloaded              every queue that could take the request is full: retry after `retry_after_s`
├── Unavailable             no replica can answer now: retry after `retry_after_s`
├── EngineFailed            the engine could not go on with an accepted request
└── ModelError              the operator's: a model that cannot be found, read or served
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.types import Placement

__all__ = [
    "ContextTooLong",
    "EngineFailed",
    "MantaError",
    "ModelError",
    "Overloaded",
    "RequestError",
    "Unavailable",
    "UnknownModel",
]


class MantaError(Exception):
    """The base of all our errors. The message is for the reader who can act on it."""

    placements: "tuple[Placement, ...]" = ()  # of a traced request, those that no output has told


class RequestError(MantaError):
    """A request that no server could serve. `param` is the dotted field of the request, None if there is none."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextTooLong(RequestError):
    """The prompt does not fit into the model's context or the KV cache."""


class UnknownModel(RequestError):
    """The request names a model that is not served."""


class Overloaded(MantaError):
    """The request was refused before any of it was computed."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(MantaError):
    """No replica can take the request at present."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineFailed(MantaError):
    """An accepted request ended because the engine could not go on."""


class ModelError(MantaError):
    """The model named in the config cannot be found, read or served. The message says what to change."""
