"""Number keywords of a schema, exactly; and which of them llguidance's compiler represents in doubles."""

from fractions import Fraction
from math import isfinite, nextafter
from typing import Any

from serve_app.grammar.exact_numbers import exact, is_number
from serve_app.grammar.keywords import NUMERIC
from serve_app.grammar.number_regex import NumberRange, Scaled, places_of
from serve_app.text.json_text import Digits

__all__ = ["bounded", "carried_by_doubles", "multiples_schema", "number_range", "range_schema"]

MAX_WHOLE = 2**53
MAX_STEP = 3_000  # as an integer of its digits: llguidance has a state for each remainder
NEIGHBORS = 64  # doubles around a step that are tried for one that llguidance reads as that step
MAX_INTEGER = 2**63 - 1024  # the largest int64 that is a double
MAX_MULTIPLE = 10**15  # unless the schema's bounds need more
MAX_MOVES = 4096  # multiples between a bound and the next one that is a double


def number_range(schema: dict[str, Any]) -> NumberRange:
    low, excludes_low = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, excludes_high = _bound(schema, "maximum", "exclusiveMaximum", min)
    step = exact(schema["multipleOf"]) if "multipleOf" in schema else None
    return NumberRange(low, high, excludes_low, excludes_high, schema.get("type") == "integer", step)


def range_schema(numbers: NumberRange) -> dict[str, Any]:
    """The keywords of a range, without the type."""
    found = {
        "exclusiveMinimum" if numbers.excludes_low else "minimum": numbers.low,
        "exclusiveMaximum" if numbers.excludes_high else "maximum": numbers.high,
        "multipleOf": numbers.step,
    }
    return {key: _written(value) for key, value in found.items() if value is not None}


def multiples_schema(scaled: Scaled) -> dict[str, Any] | None:
    """The keywords for llguidance, which counts multiples of any step. None if it would read other numbers."""
    step = _read_as(scaled.step, scaled.places) if scaled.step <= MAX_STEP else None
    largest = MAX_MULTIPLE * 10**scaled.places
    least, most = max(scaled.least, -largest), min(scaled.most, largest)
    if most - least < scaled.step:  # the bounds need more
        least, most = scaled.least, scaled.most
    low, high = (_carried(bound, scaled, sign) for bound, sign in ((least, 1), (most, -1)))
    if step is None or low is None or high is None or low > high:
        return None
    return {"type": "integer" if scaled.places == 0 else "number", "multipleOf": step, "minimum": low, "maximum": high}


def carried_by_doubles(schema: dict[str, Any]) -> str | None:
    """The first keyword whose numbers llguidance would not read exactly, if there is one."""
    for keyword in ("const", "enum"):
        values = schema.get(keyword) if keyword == "enum" else [schema.get(keyword)]
        if isinstance(values, list) and not all(map(_is_carried, values)):
            return keyword
    for keyword in NUMERIC:
        value = schema.get(keyword)
        if value is None or not is_number(value):
            continue
        if not _is_carried(value):
            return keyword
        if keyword.startswith("exclusive") and schema.get("type") != "integer":
            return keyword
        if keyword == "multipleOf":
            places = places_of(exact(value))
            if exact(value) * 10**places > MAX_STEP or _factor(float(value)) != (exact(value) * 10**places, places):
                return keyword
    return None


def bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with bounds for integers, so that none has unbounded digits."""
    if schema.get("type") != "integer":
        return schema
    low = {} if {"minimum", "exclusiveMinimum"} & schema.keys() else {"minimum": -MAX_INTEGER}
    high = {} if {"maximum", "exclusiveMaximum"} & schema.keys() else {"maximum": MAX_INTEGER}
    return {**schema, **low, **high}


def _bound(schema: dict[str, Any], included: str, excluded: str, tighter: Any) -> tuple[Fraction | None, bool]:
    bounds = {keyword: exact(schema[keyword]) for keyword in (excluded, included) if keyword in schema}
    if not bounds:
        return None, False
    keyword = tighter(bounds, key=lambda one: bounds[one])  # of equal ones the excluded one
    return bounds[keyword], keyword == excluded


def _written(value: Fraction) -> float:
    if value.denominator == 1:
        return value.numerator
    places = places_of(value)
    digits = str(abs(int(value * 10**places))).zfill(places + 1)
    text = f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return float(text) if Fraction(repr(float(text))) == value else Digits(text)


def _is_carried(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_carried, value.values()))
    if isinstance(value, list):
        return all(map(_is_carried, value))
    if not is_number(value) or value == 0:
        return True
    if isinstance(value, int):
        return abs(value) <= MAX_WHOLE
    return not isinstance(value, Digits) and 1e-4 <= abs(value) < 1e15


def _carried(bound: int, scaled: Scaled, sign: int) -> float | None:
    """The first multiple from `bound` inwards that is a double."""
    bound += sign * (-sign * bound % scaled.step)
    unit = 10**scaled.places
    for n in range(bound, bound + sign * scaled.step * MAX_MOVES, sign * scaled.step):
        value = float(n / unit) if abs(n) < 10**300 else float("inf")
        if abs(n) < 2**63 * unit and Fraction(repr(value)) * unit == n and "e" not in repr(value):
            return value if scaled.places else int(value)
    return None


def _read_as(step: int, places: int) -> float | None:
    """A double that llguidance reads as step / 10^places."""
    value = step / 10**places
    for _ in range(NEIGHBORS // 2):
        value = nextafter(value, 0)
    for _ in range(NEIGHBORS):
        if _factor(value) == (step, places):
            return int(value) if places == 0 else value
        value = nextafter(value, float("inf"))
    return None


def _factor(value: float) -> tuple[int, int]:
    """llguidance's reading of a step: multiplied by ten until it is an integer. (0, 0): it cannot read it."""
    places = 0
    while value != int(value):
        value, places = value * 10, places + 1
        if not isfinite(value):
            return 0, 0
    if value >= 2**32:
        return 0, 0
    whole = int(value)
    while places and whole % 10 == 0:
        whole, places = whole // 10, places - 1
    return whole, places
