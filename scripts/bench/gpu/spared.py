"""One row that cannot be had must not cost the others: a card is there for minutes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["spared", "why"]


def spared(function: Callable[..., Any], *arguments: Any, **named: Any) -> Iterator[dict[str, Any]]:
    """The row or rows that a function gives; if it raises, those before and one that says why."""
    try:
        made: dict[str, Any] | Iterable[dict[str, Any]] = function(*arguments, **named)
        yield from [made] if isinstance(made, dict) else made
    except Exception as error:  # of any kind
        about = " ".join(str(one) for one in arguments if isinstance(one, str | int | tuple))
        yield {"name": function.__name__.strip("_"), "shape": about, "ok": False, "failed": why(error)}


def why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
