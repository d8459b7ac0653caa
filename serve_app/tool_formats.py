"""How models write tool calls: one description for each format. The parser and the grammar are made from it."""

import msgspec

__all__ = ["GENERIC", "TOOL_FORMATS", "ToolFormat", "find_tool_format"]


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A call is an opening marker, then either an object with name and arguments or a name, a separator and arguments.

    hermes       <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>
    mistral      [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]    or    [TOOL_CALLS]f[ARGS]{"a": 1}
    kimi_k2      <|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>
    """

    name: str
    opens: tuple[str, ...]
    closes: tuple[str, ...] = ()
    separators: tuple[str, ...] = ()  # between name and arguments; none: calls are objects
    between: str = " \t\r\n"  # characters that may stand between calls
    begins_bare: bool = False  # an object at the very beginning of the answer is a call
    arguments_key: str = "arguments"
    short_ids: bool = False  # ids of nine letters and digits, as the template insists
    signs: tuple[str, ...] = ()  # what all stands in the chat template of a model that writes so

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.opens, *self.closes, *self.separators)


FORMATS = (
    ToolFormat(
        name="mistral",
        opens=("[TOOL_CALLS]",),
        separators=("[ARGS]",),
        between=" \t\r\n[],",
        short_ids=True,
        signs=("[TOOL_CALLS]",),
    ),
    ToolFormat(
        name="deepseek_v3",
        opens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
        closes=("```<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        separators=("\n```json\n",),
        signs=("<｜tool▁calls▁begin｜>", "```json"),
    ),
    ToolFormat(
        name="deepseek_v31",
        opens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        closes=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        separators=("<｜tool▁sep｜>",),
        signs=("<｜tool▁calls▁begin｜>",),
    ),
    ToolFormat(
        name="kimi_k2",
        opens=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        closes=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
        separators=("<|tool_call_argument_begin|>",),
        signs=("<|tool_calls_section_begin|>",),
    ),
    ToolFormat(
        name="llama3_json",
        opens=("<|python_tag|>",),
        between=" \t\r\n;,[]",
        begins_bare=True,
        arguments_key="parameters",
        signs=('"parameters"', "ipython"),
    ),
    ToolFormat(name="granite", opens=("<|tool_call|>",), between=" \t\r\n[],", signs=("<|tool_call|>",)),
    ToolFormat(name="phi4_mini_json", opens=("functools",), between=" \t\r\n[],", signs=("functools",)),
    ToolFormat(name="hermes", opens=("<tool_call>",), closes=("</tool_call>",), signs=("<tool_call>",)),
)
# for models whose template knows no tools: a prompt of ours presents them (tool_prompt)
GENERIC = ToolFormat(name="generic", opens=("<tool_call>",), closes=("</tool_call>",))
TOOL_FORMATS = {one.name: one for one in (*FORMATS, GENERIC)}

# templates that write calls in a way that no format above describes
FOREIGN_SIGNS = ("<function=", "<arg_key>", "<|channel|>", "<|python_start|>", "<function_calls>")


def find_tool_format(template: str) -> ToolFormat:
    """The format that a chat template speaks of, else the generic one."""
    if "tools" in template and not any(sign in template for sign in FOREIGN_SIGNS):
        for one in FORMATS:
            if all(sign in template for sign in one.signs):
                return one
    return GENERIC
