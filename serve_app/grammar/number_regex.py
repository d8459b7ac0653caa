"""Number regexes: the JSON numbers of a range as regular expressions, in exact decimals.

A number is n / 10^places with integers n and places, so an excluded bound is the next n. The expressions use only
digits, classes, groups and counts, which Rust's and Python's engines read alike.
"""

from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, lcm
from os.path import commonprefix
from sys import float_info

import msgspec

__all__ = ["ANY_NUMBER", "NumberRange", "Scaled", "TooManyDigits", "number_regex", "places_of"]

INTEGER_DIGITS = 19  # of an int64
NUMBER_DIGITS = 17  # significant digits of a double, before the point and after it
LARGEST_DOUBLE = int(Fraction(repr(float_info.max)))
MAX_DIGITS = 400  # of a bound: a double has 309 before the point
MAX_NESTED = 200  # digits that may each open a group: regex engines take 250
MAX_LISTED = 200  # multiples that are listed one by one
MAX_ENDINGS = 1_000  # different last digits of multiples
ANY_NUMBER = (
    rf"-?(0|[1-9][0-9]{{0,{NUMBER_DIGITS - 1}}})(\.[0-9]{{1,{NUMBER_DIGITS}}})?"
    rf"|-?[0-9](\.[0-9]{{1,{NUMBER_DIGITS}}})?[eE][+-]?([0-9]{{1,2}}|[12][0-9]{{2}})"
)


class TooManyDigits(ValueError):
    """A bound is longer than an expression can be."""


class NumberRange(msgspec.Struct, frozen=True):
    """A range of numbers; None: no bound. `step`: only its multiples (multipleOf)."""

    low: Fraction | None = None
    high: Fraction | None = None
    excludes_low: bool = False
    excludes_high: bool = False
    is_integer: bool = False
    step: Fraction | None = None

    @property
    def is_any(self) -> bool:
        return self.low is None and self.high is None and self.step is None and not self.is_integer

    def both(self, other: "NumberRange") -> "NumberRange":
        """The intersection with another range."""
        low, excludes_low = _tighter([(self.low, self.excludes_low), (other.low, other.excludes_low)], 1)
        high, excludes_high = _tighter([(self.high, self.excludes_high), (other.high, other.excludes_high)], -1)
        steps = [step for step in (self.step, other.step) if step is not None]
        step = _common_multiple(*steps) if len(steps) == 2 else steps[0] if steps else None
        is_integer = self.is_integer or other.is_integer
        return NumberRange(low, high, excludes_low, excludes_high, is_integer, step)

    def holds(self, value: Fraction) -> bool:
        return (
            (self.low is None or value > self.low or (value == self.low and not self.excludes_low))
            and (self.high is None or value < self.high or (value == self.high and not self.excludes_high))
            and (not self.is_integer or value.denominator == 1)
            and (self.step is None or (value / self.step).denominator == 1)
        )

    def scaled(self) -> "Scaled | None":
        """The range as integers n of n / 10^places, with default bounds where it has none. None: it is empty."""
        step = self.step
        if self.is_integer:
            step = Fraction(1) if step is None else _common_multiple(Fraction(1), step)
        places = NUMBER_DIGITS if step is None else places_of(step)
        found = self._scaled(step, places)
        if step is None and found.first > found.most:  # a range between two numbers of so many places
            bounds = [bound for bound in (self.low, self.high) if bound is not None]
            found = self._scaled(step, max(map(places_of, bounds)) + 1)
        return found if found.first <= found.most else None

    def _scaled(self, step: Fraction | None, places: int) -> "Scaled":
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        size = INTEGER_DIGITS if self.is_integer else NUMBER_DIGITS
        size = max(size, *(len(str(abs(ceil(bound)))) + 1 for bound in bounds), 0)
        if size > MAX_DIGITS or places > MAX_DIGITS:
            raise TooManyDigits(f"numbers of more than {MAX_DIGITS} digits are not written")
        largest = 10**size
        if largest > LARGEST_DOUBLE and all(abs(bound) < LARGEST_DOUBLE for bound in bounds):
            largest = LARGEST_DOUBLE
        unit = 10**places
        least, most = 1 - largest * unit, largest * unit - 1
        if self.low is not None:
            least = ceil(self.low * unit)
            least += self.excludes_low and self.low * unit == least
        if self.high is not None:
            most = floor(self.high * unit)
            most -= self.excludes_high and self.high * unit == most
        return Scaled(least, most, 1 if step is None else int(step * unit), places)


class Scaled(msgspec.Struct, frozen=True):
    """The multiples n of `step` from `least` to `most`; each means n / 10^places."""

    least: int
    most: int
    step: int
    places: int

    @property
    def first(self) -> int:
        return -(-self.least // self.step) * self.step


def number_regex(scaled: Scaled) -> list[str] | None:
    """Expressions that a number must all match. None: the step has no expression of moderate size."""
    if scaled.step != 1 and (scaled.most - scaled.first) // scaled.step < MAX_LISTED:
        listed = [_text(n, scaled.places) for n in range(scaled.first, scaled.most + 1, scaled.step)]
        return ["|".join(text.replace(".", r"\.") for text in listed)]
    within = _between(scaled.least, scaled.most, scaled.places)
    if scaled.step == 1:
        return [within]
    endings = _multiples_by_suffix(scaled.step, scaled.places)
    return [within, endings] if endings is not None else None


def _between(least: int, most: int, places: int) -> str:
    ways = []
    if least < 0:
        ways.append("-" + _group(_from_zero(max(1, -most), -least, places)))
    if most >= 0:
        ways.append(_from_zero(max(0, least), most, places))
    return _either(ways)


def _from_zero(least: int, most: int, places: int) -> str:
    """Both bounds are at least 0. An integer part alone, or with digits after the point."""
    (low, low_rest), (high, high_rest) = divmod(least, 10**places), divmod(most, 10**places)
    first, last = (str(rest).zfill(places) if places else "" for rest in (low_rest, high_rest))
    if low == high:
        return f"{low}{_fraction(first, last)}"
    ways = []
    if first.strip("0"):
        ways.append(f"{low}{_fraction(first, '9' * places)}")
        low += 1
    if last.strip("9"):
        ways.append(f"{high}{_fraction('0' * places, last)}")
        high -= 1
    if low <= high:
        ways.append(_group(_whole(low, high)) + _fraction("0" * places, "9" * places))
    return _either(ways)


def _whole(low: int, high: int) -> str:
    """Integers from low to high, without leading zeros."""
    ways = ["0"] if low == 0 else []
    low = max(low, 1)
    full: list[int] = []  # lengths of which every integer is in the range the range
    for length in range(len(str(low)), len(str(high)) + 1 if high else 0):
        least, most = max(low, 10 ** (length - 1)), min(high, 10**length - 1)
        if least == 10 ** (length - 1) and most == 10**length - 1:
            full.append(length)
        else:
            ways.append(_digits(str(least), str(most)))
    if full:
        ways.append("[1-9]" + _any(full[0] - 1, full[-1] - 1))
    return _either(ways)


def _digits(first: str, last: str, depth: int = 0) -> str:
    """Digit strings from first to last, of their common length."""
    size = len(first)
    if first == last:
        return first
    if not first.strip("0") and not last.strip("9"):
        return _any(size, size)
    _check(depth)
    if same := commonprefix([first, last]):
        return same + _group(_digits(first[len(same) :], last[len(same) :], depth + 1))
    low, high, ways = int(first[0]), int(last[0]), []
    if first[1:].strip("0"):
        ways.append(first[0] + _group(_digits(first[1:], "9" * (size - 1), depth + 1)))
        low += 1
    if last[1:].strip("9"):
        ways.append(last[0] + _group(_digits("0" * (size - 1), last[1:], depth + 1)))
        high -= 1
    if low <= high:
        ways.append(_class(low, high) + _any(size - 1, size - 1))
    return _either(ways)


def _fraction(first: str, last: str) -> str:
    """A point and digits from first to last; optional if first is zero."""
    if not last:
        return ""
    if first.strip("0"):
        return r"\." + _group(_places_between(first, last))
    return rf"(\.{_group(_some(last))})?"


def _places_between(first: str, last: str, depth: int = 0) -> str:
    """Digits that, zero-padded on the right, are from first to last. `first` is not zero."""
    size = len(first)
    _check(depth)
    if same := commonprefix([first.rstrip("0"), last]):  # zeros at the end may be left out
        return same + _rest_between(first[len(same) :], last[len(same) :], depth)
    low, high, ways = int(first[0]), int(last[0]), []
    if first[1:].strip("0"):
        ways.append(first[0] + _rest_between(first[1:], "9" * (size - 1), depth))
        low += 1
    if last[1:].strip("9"):
        ways.append(last[0] + _rest_between("0" * (size - 1), last[1:], depth))
        high -= 1
    if low <= high:
        ways.append(_class(low, high) + _any(0, size - 1))
    return _either(ways)


def _rest_between(first: str, last: str, depth: int) -> str:
    if not first:
        return ""
    if first.strip("0"):
        return _group(_places_between(first, last, depth + 1))
    return f"({_some(last, depth + 1)})?"


def _some(last: str, depth: int = 0) -> str:
    """One digit or more, at most as many as `last` has, that zero-padded on the right are at most last."""
    size = len(last)
    if not last.strip("9"):
        return _any(1, size)
    if not last.strip("0"):
        return f"0{{1,{size}}}"
    _check(depth)
    zeros = size - len(last.lstrip("0"))
    if zeros:
        return f"0{{1,{zeros}}}|0{{{zeros}}}{_group(_some(last[zeros:], depth + 1))}"
    ways = [last[0] + _rest_between("0" * (size - 1), last[1:], depth)] if last[1:].strip("9") else []
    high = int(last[0]) - bool(ways)
    return _either([*ways, _class(0, high) + _any(0, size - 1)])


@lru_cache(256)
def _multiples_by_suffix(step: int, places: int) -> str | None:
    """The multiples of a step that divides a power of ten, by their last digits."""
    size = next((size for size in range(1, 12) if 10**size % step == 0), None)
    if size is None or 10**size // step > MAX_ENDINGS:
        return None
    size = max(size, places)
    if 10**size // step > MAX_ENDINGS:
        return None
    tails, whole = set(), set()
    for n in range(0, 10**size, step):
        digits = str(n).zfill(size)
        before, after = digits[: size - places], digits[size - places :]
        for kept in range(len(after.rstrip("0")), places + 1):
            fraction = rf"\.{after[:kept]}" if kept else ""
            tails.add(before + fraction)
            whole.add((before.lstrip("0") or "0") + fraction if before else f"0{fraction}")
    ends = _either(sorted(tails))
    return f"-?([0-9]+{_group(ends)}|{_either(sorted(whole))})"


def places_of(value: Fraction) -> int:
    """The digits after the point."""
    rest = value.denominator
    twos = (rest & -rest).bit_length() - 1
    rest, fives = rest >> twos, 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives)


def _common_multiple(one: Fraction, other: Fraction) -> Fraction:
    shared = lcm(one.denominator, other.denominator)
    return Fraction(lcm(int(one * shared), int(other * shared)), shared)


def _tighter(bounds: list[tuple[Fraction | None, bool]], sign: int) -> tuple[Fraction | None, bool]:
    """The larger of two lower bounds (sign 1), the smaller of two upper ones (-1); of equal ones the excluded one."""
    known = [(bound * sign, excludes) for bound, excludes in bounds if bound is not None]
    if not known:
        return None, False
    bound, excludes = max(known)
    return bound * sign, excludes


def _text(n: int, places: int) -> str:
    whole, rest = divmod(abs(n), 10**places)
    fraction = str(rest).zfill(places).rstrip("0") if places else ""
    return ("-" if n < 0 else "") + str(whole) + (f".{fraction}" if fraction else "")


def _any(least: int, most: int) -> str:
    if most == 0:
        return ""
    if least == most:
        return "[0-9]" if most == 1 else f"[0-9]{{{most}}}"
    return f"[0-9]{{{least},{most}}}"


def _class(low: int, high: int) -> str:
    return str(low) if low == high else f"[{low}-{high}]"


def _either(ways: list[str]) -> str:
    return "|".join(ways)


def _group(expression: str) -> str:
    return f"({expression})" if "|" in expression else expression


def _check(depth: int) -> None:
    if depth > MAX_NESTED:
        raise TooManyDigits(f"bounds of more than {MAX_NESTED} digits that are not zero")
