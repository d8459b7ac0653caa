"""Ranges of numbers as regular expressions: every number of a small range, and those at the edges of large ones."""

import itertools
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.grammar.number_regex import ANY_NUMBER, NumberRange, TooManyDigits, number_regex


def matches(numbers: NumberRange, text: str) -> bool:
    scaled = numbers.scaled()
    expressions = number_regex(scaled) if scaled is not None else None
    return expressions is not None and all(re.fullmatch(one, text) for one in expressions)


def texts(places: int, most: int) -> list[str]:
    """Every text with so many digits after the point, at most."""
    fractions = [""] + [
        "." + "".join(digits)
        for size in range(1, places + 1)
        for digits in itertools.product("0123456789", repeat=size)
    ]
    return [f"{sign}{whole}{rest}" for sign in ("", "-") for whole in range(most + 1) for rest in fractions]


@pytest.mark.parametrize("is_integer", [True, False])
@pytest.mark.parametrize("excluded", [True, False])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("0", "0"),
        ("-3", "17"),
        ("7", "113"),
        ("-120", "-9"),
        ("0.5", "0.75"),
        ("-0.05", "1.1"),
        ("9.9", "10.1"),
        ("1", "99.99"),
    ],
)
def test_every_number_is_in_or_out(low: str, high: str, excluded: bool, is_integer: bool) -> None:
    numbers = NumberRange(Fraction(low), Fraction(high), excluded, excluded, is_integer)
    scaled = numbers.scaled()
    if scaled is None:
        assert not any(numbers.holds(Fraction(text)) for text in texts(2, 130))
        return
    expressions = number_regex(scaled)
    assert expressions is not None
    for text in texts(2, 130):
        is_written_so = not (is_integer and "." in text) and not (text.startswith("-") and Fraction(text) == 0)
        found = all(re.fullmatch(one, text) for one in expressions)
        assert found == (is_written_so and numbers.holds(Fraction(text))), (text, expressions)


@pytest.mark.parametrize("step", ["2", "5", "25", "10", "0.5", "0.25", "0.01", "2.5", "50", "8"])
def test_multiples_are_told_by_their_last_digits(step: str) -> None:
    numbers = NumberRange(low=Fraction(-300), high=Fraction(300), step=Fraction(step))
    places = len(step.partition(".")[2])
    scaled = numbers.scaled()
    assert scaled is not None
    expressions = number_regex(scaled)
    assert expressions is not None
    for text in texts(places, 310):
        found = all(re.fullmatch(one, text) for one in expressions)
        if found:
            assert numbers.holds(Fraction(text)), text
        elif numbers.holds(Fraction(text)) and not text.startswith("-0") and not text.endswith("0"):
            raise AssertionError(text)


BOUNDS = st.one_of(
    st.integers(-(2**70), 2**70).map(Fraction),
    st.decimals(-(10**9), 10**9, places=9).map(Fraction),
    st.builds(lambda digits, places: Fraction(digits, 10**places), st.integers(-(10**25), 10**25), st.integers(0, 30)),
)


@settings(max_examples=150, deadline=None)
@given(bounds=st.tuples(BOUNDS, BOUNDS), excluded=st.booleans(), is_integer=st.booleans(), data=st.data())
def test_numbers_around_the_bounds_are_in_or_out(
    bounds: tuple[Fraction, Fraction], excluded: bool, is_integer: bool, data: st.DataObject
) -> None:
    low, high = sorted(bounds)
    numbers = NumberRange(low, high, excluded, excluded, is_integer)
    scaled = numbers.scaled()
    if scaled is None:
        return
    expressions = number_regex(scaled)
    assert expressions is not None
    edges = [scaled.least - 1, scaled.least, scaled.least + 1, scaled.most - 1, scaled.most, scaled.most + 1, 0]
    n = data.draw(st.sampled_from(edges) | st.integers(scaled.least, scaled.most))
    text = decimal(n, scaled.places)
    found = all(re.fullmatch(one, text) for one in expressions)
    assert found == numbers.holds(Fraction(text)), (text, expressions)


def decimal(n: int, places: int) -> str:
    digits = str(abs(n)).zfill(places + 1)
    whole, rest = (digits[:-places], digits[-places:].rstrip("0")) if places else (digits, "")
    return f"{'-' if n < 0 else ''}{whole}{'.' if rest else ''}{rest}"


def test_numbers_without_bounds_have_as_many_digits_as_are_needed() -> None:
    integer = NumberRange(is_integer=True)
    assert matches(integer, str(2**63 - 1)) and matches(integer, str(-(2**63))) and not matches(integer, "1" * 20)
    assert re.fullmatch(ANY_NUMBER, "-1.7976931348623157e308") is None and re.fullmatch(ANY_NUMBER, "1.5E-299")
    assert re.fullmatch(ANY_NUMBER, "0.1234567890123456") and not re.fullmatch(ANY_NUMBER, "0." + "1" * 18)
    assert matches(NumberRange(low=Fraction(2**70)), str(2**70 + 1))
    assert not matches(NumberRange(low=Fraction("1.7e308")), "2" + "0" * 308)


def test_bounds_of_any_size_are_bounds() -> None:
    large = NumberRange(low=Fraction("1e300"), high=Fraction("1e308"))
    assert matches(large, "5" + "0" * 304) and not matches(large, "5" + "0" * 308)
    small = NumberRange(low=Fraction("1e-300"), high=Fraction("2e-300"))
    assert matches(small, "0." + "0" * 299 + "15") and not matches(small, "0." + "0" * 299 + "3")
    with pytest.raises(TooManyDigits):
        NumberRange(low=Fraction(10**500)).scaled()


def test_ranges_meet_exactly() -> None:
    one = NumberRange(low=Fraction(0), step=Fraction("0.6"))
    other = NumberRange(low=Fraction(0), excludes_low=True, high=Fraction(9), step=Fraction("0.4"), is_integer=True)
    both = one.both(other)
    assert both == NumberRange(Fraction(0), Fraction(9), True, False, True, Fraction("1.2"))
    assert [n for n in range(10) if both.holds(Fraction(n))] == [6]
