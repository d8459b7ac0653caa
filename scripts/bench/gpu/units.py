"""The work of a part, in units: one that fails costs no other, and a part goes on behind the one that it died in."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Row", "Unit", "reason", "rows_of", "unit"]

Row = dict[str, Any]  # as it stands in a result file


@dataclass(frozen=True)
class Unit:
    """Work that is run, skipped or recorded as failed as a whole."""

    name: str
    shape: str
    run: Callable[[], Row | Iterable[Row]]


def unit(function: Callable[..., Any], *arguments: Any, **named: Any) -> Unit:
    """A call for later, which gives a row or several. Its name is the function's, its shape the plain arguments."""
    shape = " ".join(str(one) for one in arguments if isinstance(one, str | int | tuple))
    return Unit(function.__name__.strip("_"), shape, lambda: function(*arguments, **named))


def rows_of(work: Unit) -> Iterator[Row]:
    """The unit's rows; if it raises, those before and one that says why."""
    try:
        made = work.run()
        yield from [made] if isinstance(made, dict) else made
    except Exception as error:  # of any kind
        yield {"name": work.name, "shape": work.shape, "ok": False, "failed": reason(error)}


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
