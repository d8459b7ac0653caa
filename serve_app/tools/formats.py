"""All tool-call formats, and which of them a chat template speaks of."""

from serve_app.tools.field_formats import FIELD_FORMATS, PYTHONIC
from serve_app.tools.json_formats import GENERIC, JSON_FORMATS
from serve_app.tools.tool_call_format import CallSyntax, ToolCallFormat

__all__ = ["HARMONY", "TOOL_CALL_FORMATS", "find_tool_call_format"]

# gpt-oss: its channels hold thinking and content too, and harmony.py reads them all
HARMONY = ToolCallFormat(
    name="harmony",
    opens=("<|start|>", "<|channel|>"),
    closes=("<|end|>", "<|call|>", "<|return|>"),
    separators=("<|constrain|>", "<|message|>"),
    signs=("<|channel|>", "<|message|>"),
    syntax=CallSyntax(opens="<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>", closes=""),
)
# formats that stand in templates beside what looks like another's signs
SPECIFIC = (HARMONY, *FIELD_FORMATS)
TOOL_CALL_FORMATS = {one.name: one for one in (*JSON_FORMATS, *SPECIFIC, PYTHONIC, GENERIC)}

# templates that write calls in a way that no format above describes
FOREIGN_SIGNS = ("<function=", "<arg_key>", "<longcat_arg_key>")


def find_tool_call_format(template: str) -> ToolCallFormat:
    """The format that a chat template speaks of, else the generic one."""
    if "tools" not in template:
        return GENERIC
    is_foreign = any(sign in template for sign in FOREIGN_SIGNS)
    candidates = SPECIFIC if is_foreign else (*SPECIFIC, *JSON_FORMATS)
    return next((one for one in candidates if all(sign in template for sign in one.signs)), GENERIC)
