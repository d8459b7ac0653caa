"""Harmony grammar: constrains gpt-oss's answers to calls that parse or to a document, after the reasoning."""

from engine.errors import RequestError
from serve_app.grammar.constraint import Constraint
from serve_app.grammar.json_grammar import json_rule
from serve_app.grammar.lark import TEXT, Markers
from serve_app.text.vocabulary import Vocabulary
from serve_app.tools.formats import HARMONY
from serve_app.tools.tool_use import ToolUse, sources_of

__all__ = ["harmony_constraint"]


def harmony_constraint(tools: ToolUse, vocabulary: Vocabulary, output: Constraint | None) -> Constraint:
    """Raises RequestError for an output format that cannot be in a channel."""
    markers = Markers(vocabulary)
    field = output.field if output is not None else "tools"
    if missing := [marker for marker in HARMONY.markers if marker not in markers.special]:
        raise RequestError(f"{field}: this model has no token {missing[0]}", param=field)
    if output is not None and output.schema is None:
        raise RequestError(f"{field}: only a JSON form can stand in this model's channels", param=field)
    lines = [
        f"aside: {markers.text('<|channel|>')} ASIDE {markers.text('<|message|>')} TEXT "
        f"{markers.text('<|end|><|start|>assistant')}",
        "ASIDE: /analysis|commentary/" if tools.forced is None else "ASIDE: /analysis/",
        TEXT,
    ]
    ways = []
    if tools.schemas:
        ways.append("call")
        lines.append("call: " + " | ".join(f"call_{index}" for index in range(len(tools.schemas))))
        for index, (name, schema) in enumerate(tools.schemas.items()):
            opens = markers.text(HARMONY.syntax.opens.replace("NAME", name))
            lines += [f"call_{index}: {opens} arguments_{index}", f"arguments_{index}: {json_rule(schema)}"]
    if tools.forced is None:
        ways.append("final")
        lines.append(f"final: {markers.text('<|channel|>final<|message|>')} {'TEXT' if output is None else 'form'}")
    if output is not None and output.schema is not None:
        lines.append(f"form: {json_rule(output.schema)}")
    bare = " | TEXT" if tools.forced is None and output is None else ""  # text outside any message
    start = f"start: aside* ({' | '.join(ways)}){bare}"
    text = "\n".join(["%llguidance {}", start, *lines])
    if output is None:
        return Constraint(text, field, sources=sources_of(tools))
    return Constraint(text, field, output.schema, output.fits, (*output.sources, *sources_of(tools)))
