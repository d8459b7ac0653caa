"""Type names of programming languages and databases in tools' schemas, translated to JSON Schema's.

Tools are often written by hand, with types such as "dict", "STRING" or "list[str]".
"""

import re
from typing import Any

from serve_app.grammar.schema_walk import rewritten

__all__ = ["with_plain_types"]

NAMES = {
    "string": "string str text char varchar uuid date datetime timestamp bytes",
    "integer": "integer int int8 int16 int32 int64 uint uint8 uint16 uint32 uint64 long short bigint smallint unsigned",
    "number": "number num numeric float float32 float64 double decimal real",
    "boolean": "boolean bool",
    "array": "array arr list tuple set arraylist",
    "object": "object obj dict map hashmap",
    "null": "null none nil",
}
PLAIN = {name: plain for plain, names in NAMES.items() for name in names.split()}
ANY = {"any", "enum", ""}  # enum: its values have types


def with_plain_types(schema: Any) -> Any:
    """The schema with known type names translated; unknown ones stay, for validation to report."""
    return rewritten(schema, _with_plain_type)


def _with_plain_type(schema: dict[str, Any]) -> dict[str, Any]:
    declared = schema.get("type")
    names: list[Any] = declared if isinstance(declared, list) else [declared]
    if not all(isinstance(name, str) for name in names):
        return schema
    heads = [re.split(r"[^a-z0-9_]", name.strip().lower())[0] for name in names]
    if ANY.intersection(heads):
        return {key: value for key, value in schema.items() if key != "type"}
    plain = list(dict.fromkeys(PLAIN.get(head, name) for head, name in zip(heads, names, strict=True)))
    return {**schema, "type": plain if isinstance(declared, list) else plain[0]}
