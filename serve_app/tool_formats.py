"""How models write tool calls: one description for each format. The parser and the grammar are made from it."""

import msgspec

__all__ = ["GENERIC", "TOOL_FORMATS", "ToolFormat", "Writing", "find_tool_format"]


class Writing(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are written where a grammar holds the model to it: the way it was taught."""

    begins: str = ""  # before the first call
    opens: str  # up to the arguments; NAME stands for the tool's name
    closes: str  # after the arguments
    joint: str = ""  # between calls
    ends: str = ""  # after the last


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
    short_ids: bool = False  # ids of nine letters and digits, as the template insists
    signs: tuple[str, ...] = ()  # what all stands in the chat template of a model that writes so
    writing: Writing

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self.opens, *self.closes, *self.separators)


TAGGED = Writing(
    opens='<tool_call>\n{"name": "NAME", "arguments": ',
    closes="}\n</tool_call>",
    joint="\n",
)


def _list_of_objects(begins: str) -> Writing:
    return Writing(begins=f"{begins}[", opens='{"name": "NAME", "arguments": ', closes="}", joint=", ", ends="]")


FORMATS = (
    ToolFormat(
        name="mistral_v11",
        opens=("[TOOL_CALLS]",),
        separators=("[ARGS]",),
        between=" \t\r\n[],",
        short_ids=True,
        signs=("[TOOL_CALLS]", "[ARGS]"),
        writing=Writing(opens="[TOOL_CALLS]NAME[ARGS]", closes=""),
    ),
    ToolFormat(
        name="mistral",
        opens=("[TOOL_CALLS]",),
        separators=("[ARGS]",),
        between=" \t\r\n[],",
        short_ids=True,
        signs=("[TOOL_CALLS]",),
        writing=_list_of_objects("[TOOL_CALLS]"),
    ),
    ToolFormat(
        name="deepseek_v3",
        opens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
        closes=("```<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        separators=("\n```json\n",),
        signs=("<｜tool▁calls▁begin｜>", "```json"),
        writing=Writing(
            begins="<｜tool▁calls▁begin｜>",
            opens="<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n",
            closes="\n```<｜tool▁call▁end｜>",
            joint="\n",
            ends="<｜tool▁calls▁end｜>",
        ),
    ),
    ToolFormat(
        name="deepseek_v31",
        opens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        closes=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        separators=("<｜tool▁sep｜>",),
        signs=("<｜tool▁calls▁begin｜>",),
        writing=Writing(
            begins="<｜tool▁calls▁begin｜>",
            opens="<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>",
            closes="<｜tool▁call▁end｜>",
            ends="<｜tool▁calls▁end｜>",
        ),
    ),
    ToolFormat(
        name="kimi_k2",
        opens=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        closes=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
        separators=("<|tool_call_argument_begin|>",),
        signs=("<|tool_calls_section_begin|>",),
        writing=Writing(
            begins="<|tool_calls_section_begin|>",
            opens="<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>",
            closes="<|tool_call_end|>",
            ends="<|tool_calls_section_end|>",
        ),
    ),
    ToolFormat(
        name="llama3_json",
        opens=("<|python_tag|>",),
        between=" \t\r\n;,[]",
        begins_bare=True,
        signs=('"parameters"', "ipython"),
        writing=Writing(opens='{"name": "NAME", "parameters": ', closes="}", joint="; "),
    ),
    ToolFormat(
        name="granite",
        opens=("<|tool_call|>",),
        between=" \t\r\n[],",
        signs=("<|tool_call|>",),
        writing=_list_of_objects("<|tool_call|>"),
    ),
    ToolFormat(
        name="phi4_mini_json",
        opens=("functools",),
        between=" \t\r\n[],",
        signs=("functools",),
        writing=_list_of_objects("functools"),
    ),
    ToolFormat(name="hermes", opens=("<tool_call>",), closes=("</tool_call>",), signs=("<tool_call>",), writing=TAGGED),
)
# for models whose template knows no tools: a prompt of ours presents them (tool_prompt)
GENERIC = ToolFormat(name="generic", opens=("<tool_call>",), closes=("</tool_call>",), writing=TAGGED)
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
