"""All tool-call formats, and the detection of a chat template's."""

from serve_app.tools.field_formats import FIELD_FORMATS, PYTHONIC
from serve_app.tools.json_formats import GENERIC, JSON_FORMATS
from serve_app.tools.tool_call_format import CallSyntax, ToolCallFormat

__all__ = ["HARMONY", "TOOL_CALL_FORMATS", "find_tool_call_format"]

# gpt-oss: its channels have reasoning and content too; harmony_parser.py parses them all
HARMONY = ToolCallFormat(
    name="harmony",
    opens=("<|start|>", "<|channel|>"),
    closes=("<|end|>", "<|call|>", "<|return|>"),
    separators=("<|constrain|>", "<|message|>"),
    signs=("<|channel|>", "<|message|>"),
    syntax=CallSyntax(opens="<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>", closes=""),
)
# formats whose templates also have another format's signs
SPECIFIC = (HARMONY, *FIELD_FORMATS)
TOOL_CALL_FORMATS = {one.name: one for one in (*JSON_FORMATS, *SPECIFIC, PYTHONIC, GENERIC)}

# templates whose calls no format above describes
FOREIGN_SIGNS = ("<function=", "<arg_key>", "<longcat_arg_key>")


def find_tool_call_format(template: str) -> ToolCallFormat:
    """The format whose signs a chat template has, else the generic one."""
    if "tools" not in template:
        return GENERIC
    is_foreign = any(sign in template for sign in FOREIGN_SIGNS)
    candidates = SPECIFIC if is_foreign else (*SPECIFIC, *JSON_FORMATS)
    return next((one for one in candidates if all(sign in template for sign in one.signs)), GENERIC)
