"""Validates a finished document against its schema, at a bounded cost.

Regular expressions are not checked: Python's can be made to run for hours. References are followed within the schema
only. The check stops after MAX_STEPS: a schema of a kilobyte can mean 2^40 of them. Numbers are exact decimals.
"""

import operator
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import jsonschema
from jsonschema import ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from serve_app.grammar.exact_numbers import exact, is_number, number_text, same
from serve_app.grammar.schema_walk import rewritten

__all__ = ["schema_fault"]

MAX_STEPS = 1_000  # some 20 ms


def schema_fault(document: Any, schema: dict[str, Any] | bool) -> str | None:
    """The document's first error, if one is found within MAX_STEPS."""
    validator = _counted(MAX_STEPS)(rewritten(schema, _without_patterns), registry=Registry())
    try:
        error = next(validator.iter_errors(document), None)
    except (Unresolvable, RecursionError, _TooManySteps):  # the grammar has already enforced the schema
        return None
    return error.message[:500] if error is not None else None


class _TooManySteps(Exception):
    pass


def _counted(steps: int) -> Any:
    """A validator class with a budget of steps: each keyword takes one, and one for each of its items."""
    left = steps

    def counted(keyword: Any) -> Any:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            nonlocal left
            left -= 1 + (len(value) if isinstance(value, list | dict) else 0)
            if left < 0:
                raise _TooManySteps
            return keyword(validator, value, instance, schema)

        return check

    draft = jsonschema.Draft202012Validator
    keywords = {**draft.VALIDATORS, **EXACT}
    return jsonschema.validators.extend(draft, {name: counted(keyword) for name, keyword in keywords.items()})


def _multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if is_number(instance) and (exact(instance) / exact(step)).denominator != 1:
        yield ValidationError(f"{number_text(instance)} is not a multiple of {number_text(step)}")


def _bound(holds: Callable[[Fraction, Fraction], bool], words: str) -> Any:
    def check(validator: Any, bound: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if is_number(instance) and not holds(exact(instance), exact(bound)):
            yield ValidationError(f"{number_text(instance)} is {words} {number_text(bound)}")

    return check


def _const(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not same(instance, value):
        yield ValidationError(f"{value!r} was expected")


def _enum(validator: Any, values: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not any(same(instance, value) for value in values):
        yield ValidationError(f"{instance!r} is not one of {values!r}")


EXACT = {  # keywords that jsonschema calculates in doubles
    "multipleOf": _multiple_of,
    "minimum": _bound(operator.ge, "less than"),
    "maximum": _bound(operator.le, "more than"),
    "exclusiveMinimum": _bound(operator.gt, "not more than"),
    "exclusiveMaximum": _bound(operator.lt, "not less than"),
    "const": _const,
    "enum": _enum,
}


def _without_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    dropped = {"pattern", "patternProperties"}
    if "patternProperties" in schema:  # additionalProperties depends on the patterns
        dropped |= {"additionalProperties", "unevaluatedProperties"}
    return {key: value for key, value in schema.items() if key not in dropped}
