"""JSON schemas as grammar rules in llguidance's Lark dialect.

Objects, arrays, alternatives and numbers become rules here: llguidance's own JSON compiler calculates with doubles and
does not bound the length of numbers. Strings, and several schemas that apply to one object, are left to it as pieces;
their numbers must be exact doubles.
"""

import json
from functools import lru_cache
from typing import Any

from serve_app.grammar.all_of import CannotMerge, are_disjoint, joined, listed_names, listed_values
from serve_app.grammar.ecma_regex import PatternFault, look_aheads, to_rust_regex
from serve_app.grammar.exact_numbers import exact, is_number, number_text, same
from serve_app.grammar.keywords import BEYOND, COUNTS, NUMERIC, TEXTUAL, TYPES, kept
from serve_app.grammar.number_regex import ANY_NUMBER, NumberRange, Scaled, TooManyDigits, number_regex
from serve_app.grammar.number_schema import bounded, carried_by_doubles, multiples_schema, number_range
from serve_app.grammar.references import path_of, references_of, self_contained, target_of
from serve_app.grammar.rule_faults import InvalidSchema, Piece, Unsatisfiable, Unsupported
from serve_app.grammar.schema_check import schema_fault
from serve_app.grammar.schema_walk import Path, rewritten, schemas_in
from serve_app.grammar.sequences import EMPTY, CountedMembers, items, quoted_name, several

__all__ = ["MAX_COUNT", "JsonRules"]

NAME_BYTES = r'"([^"\\\x00-\x1f\x7f]|\\["\\bfnrt])%s"'  # with a count of characters
PLAIN_CHAR = r'[^"\\\x00-\x1f\x7f]'
DATE = (
    "(?:(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-"
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
)
MAX_COUNT = 1_000_000_000  # characters, items or properties
INVOLVED = (
    "patternProperties",
    "allOf",
    "$ref",
    "oneOf",
    "anyOf",
    "const",
    "enum",
)  # keywords for which a schema is left to llguidance
NAMES = {"$anchor"}  # keywords that name a schema for references
MAX_COUNTED = 500  # members of objects with minProperties or maxProperties
MAX_CHECKED = 50  # constants that are objects or arrays, a millisecond each
MAX_IN_SET = 7  # needs 2^7 rules
MAX_JOINED = 500  # alternatives merged from several schemas


class _Piece(Exception):
    """The schema is left to llguidance's compiler."""


class JsonRules:
    """Writes one schema's rules into `lines`."""

    def __init__(self, root: Any, options: dict[str, Any], *, leaves_out: bool = False) -> None:
        """options      of llguidance's JSON compiler
        leaves_out   unsupported parts are noted, and any value is allowed in their place
        """
        self._root = root
        self._options = options
        self._leaves_out = leaves_out
        self.left_out: list[Unsupported] = []
        self.pieces: list[Piece] = []
        self.lines: list[str] = []
        self._names: dict[str, str] = {}  # rule body -> its name
        self.required: dict[str, None] = {}  # names of properties
        self._references: dict[str, str] = {}
        self._waiting: list[tuple[str, str]] = []  # references whose rules are not written yet
        self._joining: set[str] = set()  # references that are being merged with other schemas around this place
        self._num_joined = 0

    def write(self) -> str:
        """The rule of the whole schema. Raises Unsupported, Unsatisfiable or InvalidSchema."""
        if any(isinstance(one, dict) and one.keys() & NAMES for _, one in schemas_in(self._root)):
            return self._whole()
        start = self._value(self._root, ())
        while self._waiting:
            reference, name = self._waiting.pop()
            body = self._value(target_of(self._root, reference), path_of(reference))
            self.lines.append(f"{name}: {body}")
        return start

    def _whole(self) -> str:
        """A schema with $anchor, as one piece."""
        for place, one in schemas_in(self._root):
            if isinstance(one, dict):
                _check_for_piece(one, place)
        rule = self._json(rewritten(self._root, bounded))
        self.pieces.append(Piece((), "$ref", rule))
        return rule

    def _value(self, schema: Any, path: Path) -> str:
        """An expression of the documents that satisfy a schema."""
        if schema is False:
            raise Unsatisfiable(path, "false", "nothing satisfies it")
        if schema is True or not (asked := kept(schema)):
            return self._any()
        before = len(self.lines), len(self._names), len(self._references), len(self._waiting), len(self.pieces)
        try:
            if beyond := sorted(asked.keys() & BEYOND):
                raise Unsupported(path, beyond[0], "")
            if many := [key for key in sorted(COUNTS & asked.keys()) if asked[key] > MAX_COUNT]:
                raise Unsupported(path, many[0], f"{MAX_COUNT} is the most")
            try:
                found = self._written(asked, path)
                return self.named("r", found) if " " in found else found  # it may be used twice, at every depth
            except _Piece:
                self._forget(*before)
                return self._piece(schema, path)
        except Unsupported as fault:
            if not self._leaves_out:
                raise
            self.left_out.append(fault)
            self._forget(*before)
            return self._any()

    def _forget(self, lines: int, names: int, references: int, waiting: int, pieces: int) -> None:
        """Drops everything written since these counts."""
        del self.lines[lines:], self._waiting[waiting:], self.pieces[pieces:]
        while len(self._names) > names:
            self._names.popitem()
        while len(self._references) > references:
            self._references.popitem()

    def _written(self, asked: dict[str, Any], path: Path) -> str:
        if asked.keys() == {"$ref"}:
            return self._reference(asked["$ref"], path)
        if "$ref" in asked or "allOf" in asked:
            return self._joined(asked, path)
        for keyword in ("anyOf", "oneOf"):
            if keyword in asked:
                return self._alternatives(asked, keyword, path)
        if "const" in asked or "enum" in asked:
            return self._constants(asked, path)
        types = asked.get("type", TYPES)
        return self._first_of(
            [(asked | {"type": one}, path) for one in (types if isinstance(types, list | tuple) else [types])],
            self._typed,
            path,
        )

    def _typed(self, asked: dict[str, Any], path: Path) -> str:
        match asked["type"]:
            case "null":
                return '"null"'
            case "boolean":
                return "/true|false/"
            case "integer" | "number":
                return self._number(asked, path)
            case "string":
                return self._string(asked, path)
            case "array":
                return self._array(asked, path)
            case "object":
                return self._object(asked, path)
        raise Unsupported(path, "type", f"{asked['type']!r} is no type")

    def _first_of(self, ways: list[tuple[Any, Path]], write: Any, path: Path) -> str:
        """The alternatives without unsatisfiable ones."""
        found, nothing = [], None
        for schema, at in ways:
            try:
                found.append(write(schema, at))
            except Unsatisfiable as none:
                nothing = nothing or none
        if not found:
            raise nothing or Unsatisfiable(path, "type", "no type is one of all that are asked for")
        return f"({' | '.join(dict.fromkeys(found))})" if len(found) > 1 else str(found[0])

    def _joined(self, asked: dict[str, Any], path: Path) -> str:
        parts = [asked, *(one for one in asked.get("allOf", ()) if isinstance(one, dict))]
        references = {one["$ref"] for one in parts if "$ref" in one}
        if references & self._joining:
            raise Unsupported(path, "$ref", "beside other keywords, where it refers to itself")
        self._joining |= references
        try:
            return self._value(self._join(asked), path)
        finally:
            self._joining -= references

    def _join(self, asked: dict[str, Any]) -> dict[str, Any] | bool:
        self._num_joined += 1
        if self._num_joined > MAX_JOINED:
            raise _Piece
        try:
            return joined(self._root, asked)
        except CannotMerge:
            raise _Piece from None

    def _alternatives(self, asked: dict[str, Any], keyword: str, path: Path) -> str:
        ways = asked[keyword]
        if keyword == "oneOf" and not are_disjoint(self._root, ways):
            raise Unsupported(path, keyword, "its schemas are not clearly apart")
        rest = {key: value for key, value in asked.items() if key != keyword}
        if not rest:
            return self._first_of([(way, (*path, keyword, str(n))) for n, way in enumerate(ways)], self._value, path)
        both = [(self._join({**rest, "allOf": [way]}), path) for way in ways]
        return self._first_of(both, self._value, path)

    def _reference(self, reference: str, path: Path) -> str:
        if reference not in self._references:
            if not reference.startswith("#"):
                raise Unsupported(path, "$ref", f"{reference!r} is not within this schema")
            if target_of(self._root, reference) is None:
                raise InvalidSchema(path, "$ref", f"{reference!r} refers to nothing in this schema")
            name = f"ref{len(self._references)}"
            self._references[reference] = name
            self._waiting.append((reference, name))
        return self._references[reference]

    # scalars

    def _number(self, asked: dict[str, Any], path: Path) -> str:
        try:
            numbers = number_range(asked)
            if numbers.is_any:
                return self._terminal([ANY_NUMBER])
            scaled, found = _expressions(numbers)
        except TooManyDigits as error:
            raise Unsupported(path, _bounds_in(asked)[0], str(error)) from None
        if scaled is None:
            raise Unsatisfiable(path, ", ".join(_bounds_in(asked)), "no number is within")
        if found is not None:
            return self._terminal(found)
        multiples = multiples_schema(scaled)
        if multiples is None:
            why = f"multiples of {number_text(asked['multipleOf'])} within these bounds take too many states"
            raise Unsupported(path, "multipleOf", why)
        rule = self._json(multiples)
        self.pieces.append(Piece(path, "multipleOf", rule))
        return rule

    def _terminal(self, expressions: list[str]) -> str:
        return self.named("T", " & ".join(f"/{one}/" for one in expressions))

    def _string(self, asked: dict[str, Any], path: Path) -> str:
        least, most = asked.get("minLength", 0), asked.get("maxLength")
        if most is not None and least > most:
            raise Unsatisfiable(path, "minLength", f"{least} is more than maxLength, {most}")
        if "pattern" in asked:
            if "format" not in asked and (looking := self._looking_ahead(asked["pattern"], least, most, path)):
                return looking
            _check_pattern(asked["pattern"], path, "pattern")
        rule = self._json(_with_leap_years({"type": "string", **{key: asked[key] for key in TEXTUAL if key in asked}}))
        if keyword := next((key for key in ("pattern", "format") if key in asked), None):
            self.pieces.append(Piece(path, keyword, rule))
        return rule

    def _looking_ahead(self, pattern: str, least: int, most: int | None, path: Path) -> str | None:
        """Strings of a pattern that begins with look-aheads, without characters that JSON escapes."""
        try:
            found = look_aheads(pattern)
        except PatternFault:
            return None
        if found is None:
            return None
        size = f"{{{least},{'' if most is None else most}}}"
        allowed = [f'/"{PLAIN_CHAR}{size}"/', *(f'/"({one})"/' for one in found.needed)]
        rule = self.named("T", " & ".join([*allowed, *(f'~/"({one})"/' for one in found.forbidden)]))
        self.pieces.append(Piece(path, "pattern with look-around", rule))
        return rule

    def _constants(self, asked: dict[str, Any], path: Path) -> str:
        values = [asked["const"]] if "const" in asked else asked["enum"]
        rest = {key: value for key, value in asked.items() if key not in ("const", "enum")}
        if "const" in asked and "enum" in asked:
            values = [value for value in values if any(same(value, one) for one in asked["enum"])]
        if rest.keys() - {"type"} and sum(isinstance(value, dict | list) for value in values) > MAX_CHECKED:
            raise _Piece
        values = [value for value in values if self._may_be(value, rest)]
        keyword = "const" if "const" in asked else "enum"
        if not values:
            raise Unsatisfiable(path, keyword, "no value of it satisfies what else is said there")
        if rest.keys() & {"pattern", "format", "patternProperties"} and not all(map(is_number, values)):
            raise _Piece
        ways = []
        if plain := [value for value in values if not _has_numbers(value)]:
            ways.append(self._json({"enum": plain}))
        if numbers := [_constant(value, rest) for value in values if is_number(value)]:
            ways.append(self._terminal(["|".join(text.replace(".", r"\.").replace("+", r"\+") for text in numbers)]))
        ways += [self._constant(value) for value in values if isinstance(value, dict | list) and _has_numbers(value)]
        return f"({' | '.join(ways)})" if len(ways) > 1 else ways[0]

    def _may_be(self, value: Any, rest: dict[str, Any]) -> bool:
        """Whether the other keywords beside a constant allow it."""
        types = rest.get("type")
        if types is not None and not _kinds_of(value) & set(types if isinstance(types, list | tuple) else [types]):
            return False
        if is_number(value):
            return number_range({**rest, "type": "number"}).holds(exact(value))
        if isinstance(value, str):
            return bool(rest.get("minLength", 0) <= len(value) <= rest.get("maxLength", len(value)))
        if not isinstance(value, dict | list) or not rest.keys() - {"type"}:
            return True
        defined = {key: self._root[key] for key in ("$defs", "definitions") if key in self._root}
        fault: str | None = schema_fault(value, {**defined, **rest})
        return fault is None

    def _constant(self, value: Any) -> str:
        if is_number(value):
            return json.dumps(_constant(value, {}))
        if isinstance(value, list):
            return " ".join(['"["', ' "," '.join(map(self._constant, value)), '"]"'])
        if isinstance(value, dict):
            members = [f'{quoted_name(name)} ":" {self._constant(one)}' for name, one in value.items()]
            return " ".join(['"{"', ' "," '.join(members), '"}"'])
        return self._json({"const": value})

    def _any(self) -> str:
        if "any" not in self._names:
            self._names["any"] = "any"
            number, string = self._terminal([ANY_NUMBER]), self._json({"type": "string"})
            self.lines += [
                f'any: "null" | /true|false/ | {number} | {string} | any_array | any_object',
                'any_array: "[" (any ("," any)*)? "]"',
                'any_object: "{" (any_member ("," any_member)*)? "}"',
                f'any_member: {string} ":" any',
            ]
        return "any"

    # containers

    def _array(self, asked: dict[str, Any], path: Path) -> str:
        least, most = asked.get("minItems", 0), asked.get("maxItems")
        if most is not None and least > most:
            raise Unsatisfiable(path, "minItems", f"{least} is more than maxItems, {most}")
        if asked.get("uniqueItems") and (most is None or most > 1):
            return self._set(asked, least, most, path)
        first: list[str] = []
        nothing: Unsatisfiable | None = None
        for n, item in enumerate(asked.get("prefixItems", [])[:most]):
            try:
                first.append(self._value(item, (*path, "prefixItems", str(n))))
            except Unsatisfiable as none:
                nothing = none
                break
        rest = None
        if nothing is None and (most is None or most > len(first)):
            try:
                rest = self._value(asked.get("items", True), (*path, "items"))
            except Unsatisfiable as none:
                nothing = none
        if nothing is not None and least > len(first):
            raise nothing
        return f'"[" {items(first, rest, least, most)} "]"'

    def _set(self, asked: dict[str, Any], least: int, most: int | None, path: Path) -> str:
        """An array with uniqueItems, of an enum of few values."""
        items = self._join({"allOf": [asked.get("items", True)]})
        listed = listed_values(items) if "prefixItems" not in asked else None
        if not isinstance(items, dict) or listed is None or len(listed) > MAX_IN_SET:
            raise Unsupported(path, "uniqueItems", f"but of an enum of at most {MAX_IN_SET} values")
        allowed = [value for value in listed if self._may_be(value, items)]
        values = [one for n, one in enumerate(allowed) if not any(same(one, other) for other in allowed[:n])]
        if least > len(values):
            raise Unsatisfiable(path, "minItems", f"there are {len(values)} different items, and {least} must be")
        ways = [self._constants({"enum": [value]}, path) for value in values]
        most = len(ways) if most is None else min(most, len(ways))
        return f'"[" {self._different(ways, frozenset(range(len(ways))), least, most, {})} "]"'

    def _different(
        self, ways: list[str], left: frozenset[int], least: int, most: int, known: dict[frozenset[int], str]
    ) -> str:
        """The remaining items, each at most once."""
        if left not in known:
            count = len(ways) - len(left)
            comma = '"," ' if count else ""
            found = [EMPTY] if count >= least else []
            for one in sorted(left) if count < most else ():
                found.append(f"{comma}{ways[one]} {self._different(ways, left - {one}, least, most, known)}")
            known[left] = self.named("r", " | ".join(found))
        return known[left]

    def _object(self, asked: dict[str, Any], path: Path, names: str = "") -> str:
        """names   a rule of the unlisted names; "": any"""
        if "propertyNames" in asked:
            return self._named_object(asked, path)
        listed, required = asked.get("properties", {}), asked.get("required", [])
        others = asked.get("additionalProperties", True)
        patterns = asked.get("patternProperties", {})
        if patterns and not (len(patterns) == 1 and others is False and not {*listed, *required}):
            raise _Piece
        known = {name: (value, (*path, "properties", name)) for name, value in listed.items()}
        known |= {name: (others, (*path, "additionalProperties")) for name in required if name not in known}
        members: list[tuple[str, bool]] = []
        for name, (value, at) in known.items():
            try:
                member = f'{quoted_name(name)}":"{self._value(value, at)}'
                members.append((member, name in required))
            except Unsatisfiable:
                if name in required:
                    raise
        self.required |= dict.fromkeys(required)
        if patterns:
            more = self._named_like(patterns, path)
        else:
            more = self._unlisted_member(others, list(known), names, (*path, "additionalProperties"))
        more = self.named("r", more) if more else ""
        return f'"{{" {self._counted(members, more, asked, path)} "}}"'

    def _counted(self, members: list[tuple[str, bool]], more: str, asked: dict[str, Any], path: Path) -> str:
        """An object with bounded members; `more` is an unlisted member, any number of times."""
        least, most = asked.get("minProperties", 0), asked.get("maxProperties")
        num_required = sum(needed for _, needed in members)
        if most is not None and least > most:
            raise Unsatisfiable(path, "minProperties", f"{least} is more than maxProperties, {most}")
        if most is not None and most < num_required:
            raise Unsatisfiable(path, "maxProperties", f"{num_required} properties are required, and {most} allowed")
        if least > len(members) and not more:
            raise Unsatisfiable(path, "minProperties", f"there are {len(members)} properties, and {least} must be")
        if num_required == len(members) or (least <= num_required and most is None):
            least, most = least - num_required, None if most is None else most - num_required
            if more and most != 0:
                members = [*members, (several(more, max(least, 1), most), least > 0)]
            return self._members(members)
        if len(members) * min(len(members), max(least, most or 0)) > MAX_COUNTED:
            keyword = "minProperties" if most is None else "maxProperties"
            raise Unsupported(path, keyword, "beside so many properties that may be left out")
        return CountedMembers(self, members, more, least, most).write(0, 0)

    def _named_object(self, asked: dict[str, Any], path: Path) -> str:
        """An object with propertyNames: an enum, a length or a pattern."""
        rest = {key: value for key, value in asked.items() if key != "propertyNames"}
        known, others = asked.get("properties", {}), asked.get("additionalProperties", True)
        try:
            names = joined(self._root, {"allOf": [{"type": "string"}, asked["propertyNames"]]})
        except CannotMerge:
            raise Unsupported(path, "propertyNames", "what it says of names") from None
        listed = listed_names(names)
        if "patternProperties" in asked:
            raise Unsupported(path, "propertyNames", "beside patternProperties")
        if listed is not None:
            properties = {name: known.get(name, others) for name in listed}
            return self._object({**rest, "properties": properties, "additionalProperties": False}, path)
        if not {*known, *asked.get("required", [])}:
            return self._object(rest, path, self._value(names, (*path, "propertyNames")))
        if not isinstance(names, dict) or names.keys() - {"type", "minLength", "maxLength"}:
            raise Unsupported(path, "propertyNames", "beside properties that are listed")
        least, most = int(names.get("minLength", 0)), names.get("maxLength")
        properties = {
            name: value if len(name) >= least and (most is None or len(name) <= most) else False
            for name, value in ({**dict.fromkeys(asked.get("required", []), others), **known}).items()
        }
        count = f"{{{least},{'' if most is None else int(most)}}}"
        return self._object({**rest, "properties": properties}, path, f"/{NAME_BYTES % count}/")

    def _unlisted_member(self, others: Any, taken: list[str], names: str, path: Path) -> str:
        """An unlisted member; "" if none is allowed."""
        try:
            value = self._value(others, path)
        except Unsatisfiable:
            return ""
        if not taken:
            return f'{names or self._json({"type": "string"})} ":" {value}'
        listed = " | ".join(quoted_name(name) for name in taken)
        one = names or self.named("T", f"/{NAME_BYTES % '*'}/")
        name = self.named("T", f"{one} & ~({listed})")
        return f'{name} ":" {value}'

    def _named_like(self, patterns: dict[str, Any], path: Path) -> str:
        """A member whose name matches the only pattern; "" if there is none."""
        [(pattern, schema)] = patterns.items()
        _check_pattern(pattern, path, "patternProperties")
        try:
            value = self._value(schema, (*path, "patternProperties", pattern))
        except Unsatisfiable:
            return ""
        name = self._json({"type": "string", "pattern": pattern})
        self.pieces.append(Piece(path, "patternProperties", name))
        return f'{name} ":" {value}'

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """The members in their order, optional ones present or not."""
        num_optional = next((n for n, (_, needed) in enumerate(members) if needed), len(members))
        rest = "".join(f'"," {one} ' if needed else f'("," {one})? ' for one, needed in members[num_optional + 1 :])
        found = f"{members[num_optional][0]} {rest}" if num_optional < len(members) else EMPTY
        if num_optional and num_optional < len(members):
            found = self.named("r", found)
            rest = f'"," {found}'
        for n in range(num_optional - 1, -1, -1):  # the first optional member that is present, then the rest
            member = self.named("r", members[n][0]) if n else members[n][0]
            rest = self.named("r", rest) if rest else ""
            found = self.named("r", f"{member} {rest} | {found}")
            rest = f'("," {member})? {rest}'
        return found

    # llguidance's own compiler

    def _piece(self, schema: Any, path: Path) -> str:
        references = references_of(self._root, schema)
        for at, part in [(path, schema), *((path_of(one), target_of(self._root, one)) for one in references)]:
            for place, one in schemas_in(part, at):
                if isinstance(one, dict):
                    _check_for_piece(one, place)
        rule = self._json(rewritten(self_contained(self._root, schema, references), bounded))
        keyword = next((key for key in INVOLVED if key in schema), "type")
        self.pieces.append(Piece(path, keyword, rule))
        return rule

    def _json(self, schema: Any) -> str:
        if isinstance(schema, dict) and self._options:
            schema = {**schema, "x-guidance": self._options}
        return self.named("r", f"%json {json.dumps(schema)}")

    def named(self, kind: str, body: str) -> str:
        """kind   r for a rule, T for a terminal"""
        if body not in self._names:
            self._names[body] = f"{kind}{len(self.lines)}"
            self.lines.append(f"{self._names[body]}: {body}")
        return self._names[body]


def _check_for_piece(schema: dict[str, Any], path: Path) -> None:
    """Raises Unsupported or InvalidSchema where llguidance would refuse the schema, or read it differently."""
    if beyond := sorted(schema.keys() & (BEYOND | {"propertyNames", "uniqueItems"})):
        raise Unsupported(path, beyond[0], "")
    if keyword := carried_by_doubles(schema):
        raise Unsupported(path, keyword, "a number that doubles do not carry, where several schemas hold at once")
    if "pattern" in schema:
        _check_pattern(schema["pattern"], path, "pattern")
    for pattern in schema.get("patternProperties", {}):
        _check_pattern(pattern, path, "patternProperties")
    reference = schema.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise Unsupported(path, "$ref", f"{reference!r} is not within this schema")


def _check_pattern(pattern: str, path: Path, keyword: str) -> None:
    try:
        to_rust_regex(pattern)
    except PatternFault as fault:
        raise (InvalidSchema if fault.is_invalid else Unsupported)(path, keyword, str(fault)) from None


def _with_leap_years(schema: dict[str, Any]) -> dict[str, Any]:
    """A string format of calendar dates: llguidance allows 29 February in any year."""
    match schema.get("format"):
        case "date":
            dates = f"^{DATE}$"
        case "date-time":
            dates = f"^{DATE}[Tt ]"
        case _:
            return schema
    return {**schema, "allOf": [{"type": "string", "pattern": dates}]}


@lru_cache(1024)
def _expressions(numbers: NumberRange) -> tuple[Scaled | None, list[str] | None]:
    scaled = numbers.scaled()
    return scaled, None if scaled is None else number_regex(scaled)


def _bounds_in(asked: dict[str, Any]) -> list[str]:
    return [keyword for keyword in NUMERIC if keyword in asked] or ["type"]


def _constant(value: float, rest: dict[str, Any]) -> str:
    number = exact(value)
    if number.denominator == 1 and (abs(number) < 10**20 or rest.get("type") == "integer"):
        return str(number.numerator)
    return number_text(value)


def _kinds_of(value: Any) -> set[str]:
    if is_number(value):
        return {"number", "integer"} if exact(value).denominator == 1 else {"number"}
    if isinstance(value, bool) or value is None:
        return {"null" if value is None else "boolean"}
    return {"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"}


def _has_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_numbers, value.values()))
    if isinstance(value, list):
        return any(map(_has_numbers, value))
    return is_number(value)
