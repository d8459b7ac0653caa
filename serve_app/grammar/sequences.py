"""Rules of array items and object members with counts, in llguidance's Lark dialect."""

import json
from typing import Protocol

__all__ = ["EMPTY", "CountedMembers", "items", "quoted_name", "repeated", "several"]

EMPTY = '""'


class Rules(Protocol):
    def named(self, kind: str, body: str) -> str:
        """The name of a rule with this body."""
        ...


def quoted_name(name: str) -> str:
    """A property's name, as JSON within Lark's quotes."""
    return json.dumps(json.dumps(name, ensure_ascii=False))


def several(item: str, least: int, most: int | None) -> str:
    """Items of an array without prefix items, at least one."""
    return f"{item} {repeated(item, least - 1, None if most is None else most - 1)}"


def _from_none(item: str, least: int, most: int | None) -> str:
    """The item between `least` and `most` times, or not at all if `least` is 0."""
    found = several(item, max(least, 1), most)
    return found if least else f"({found})?"


def repeated(item: str, least: int, most: int | None) -> str:
    """The item between `least` and `most` times, behind another one."""
    if most == 0:
        return ""
    times = ("*" if least == 0 else f"{{{least},}}") if most is None else f"{{{least},{most}}}"
    return f'("," {item}){times}'


def items(first: list[str], rest: str | None, least: int, most: int | None) -> str:
    """Items of an array: the prefix items, as many as required, then others."""
    more = ""  # behind the prefix items
    num_more = max(0, least - len(first)), None if most is None else most - len(first)
    if rest is not None and num_more[1] != 0:
        if not first:
            return _from_none(rest, least, most)
        more = repeated(rest, *num_more)
    for n in range(len(first) - 1, 0, -1):
        more = f'"," {first[n]} {more}' if n < least else f'("," {first[n]} {more})?'
    if not first:
        return ""
    return f"{first[0]} {more}" if least else f"({first[0]} {more})?"


class CountedMembers:
    """The members of an object whose number is bounded by minProperties and maxProperties."""

    def __init__(self, rules: Rules, members: list[tuple[str, bool]], more: str, least: int, most: int | None) -> None:
        self._rules = rules
        self._members = [(rules.named("r", member), needed) for member, needed in members]
        self._more, self._least, self._most = more, least, most
        self._known: dict[tuple[int, int], str | None] = {}

    def write(self, place: int, count: int) -> str:
        found = self._from(place, count)
        assert found is not None  # the caller has checked the bounds
        return found

    def _from(self, place: int, count: int) -> str | None:
        """The rule of the members from `place` on, behind `count` members; None: unsatisfiable."""
        if self._most is None:
            count = min(count, max(self._least, 1))  # further ones need no count
        key = place, count
        if key not in self._known:
            body = self._written(place, count)
            self._known[key] = None if body is None else self._rules.named("r", body)
        return self._known[key]

    def _written(self, place: int, count: int) -> str | None:
        if place == len(self._members):
            return self._others(count)
        member, needed = self._members[place]
        ways = [] if needed else [self._from(place + 1, count)]
        if self._most is None or count < self._most:
            after = self._from(place + 1, count + 1)
            ways.append(None if after is None else f"""{'"," ' if count else ""}{member} {after}""")
        known = [way for way in ways if way is not None]
        return " | ".join(known) if known else None

    def _others(self, count: int) -> str | None:
        least, most = max(0, self._least - count), None if self._most is None else self._most - count
        if not self._more or most == 0:
            return EMPTY if least == 0 else None
        if count:
            return repeated(self._more, least, most)
        return _from_none(self._more, least, most)
