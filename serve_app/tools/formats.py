"""How models write tool calls: one description for each format. The parser and the grammar are made from it."""

from typing import Literal

import msgspec

__all__ = ["GENERIC", "HARMONY", "TOOL_FORMATS", "TaggedFields", "ToolFormat", "Writing", "find_tool_format"]


class Writing(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are written where a grammar holds the model to it: the way it was taught."""

    begins: str = ""  # before the first call
    opens: str  # up to the arguments; NAME stands for the tool's name
    closes: str  # after the arguments
    joint: str = ""  # between calls
    ends: str = ""  # after the last
    # where arguments are written one by one
    field_opens: str = ""  # before a value; KEY stands for the argument's name
    field_closes: str = ""
    field_joint: str = ""  # between arguments


class TaggedFields(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments one by one between tags: key NAME named [value] VALUE closes ... ends."""

    key: str
    named: str
    value: str = ""
    closes: str
    ends: str  # of the call
    pads: bool = False  # a line break at either end of a value is not part of it

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(marker for marker in (self.key, self.named, self.value, self.closes, self.ends) if marker)


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A call is an opening marker, then either an object with name and arguments or a name, a separator and arguments.

    Arguments are a JSON object, or come one by one: as Python writes them, or between tags.

    hermes       <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>
    mistral      [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]    or    [TOOL_CALLS]f[ARGS]{"a": 1}
    kimi_k2      <|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>
    pythonic     [f(a=1)]
    qwen3_coder  <tool_call><function=f><parameter=a>1</parameter></function></tool_call>
    """

    name: str
    opens: tuple[str, ...]
    closes: tuple[str, ...] = ()
    separators: tuple[str, ...] = ()  # between name and arguments; none: calls are objects
    between: str = " \t\r\n"  # characters that may stand between calls
    bare: str = ""  # this character at the very beginning of the answer begins a call
    lists: bool = False  # an opening marker holds any number of names and arguments
    arguments: Literal["json", "python"] | TaggedFields = "json"
    short_ids: bool = False  # ids of nine letters and digits, as the template insists
    signs: tuple[str, ...] = ()  # what all stands in the chat template of a model that writes so
    writing: Writing

    @property
    def markers(self) -> tuple[str, ...]:
        fields = self.arguments.markers if isinstance(self.arguments, TaggedFields) else ()
        return (*self.opens, *self.closes, *self.separators, *fields)


TAGGED = Writing(
    opens='<tool_call>\n{"name": "NAME", "arguments": ',
    closes="}\n</tool_call>",
    joint="\n",
)


def _list_of_objects(begins: str) -> Writing:
    return Writing(begins=f"{begins}[", opens='{"name": "NAME", "arguments": ', closes="}", joint=", ", ends="]")


def _pythonic(name: str, **markers: tuple[str, ...]) -> ToolFormat:
    return ToolFormat(
        name=name,
        opens=markers.get("opens", ()),
        closes=("]", *markers.get("closes", ())),
        separators=("(",),
        between=" \t\r\n[,",
        bare="[",
        lists=True,
        arguments="python",
        signs=markers.get("opens", ()),
        writing=Writing(
            begins="[", opens="NAME(", closes=")", joint=", ", ends="]", field_opens="KEY=", field_joint=", "
        ),
    )


# gpt-oss: its channels hold thinking and content too, and harmony.py reads them all
HARMONY = ToolFormat(
    name="harmony",
    opens=("<|start|>", "<|channel|>"),
    closes=("<|end|>", "<|call|>", "<|return|>"),
    separators=("<|constrain|>", "<|message|>"),
    signs=("<|channel|>", "<|message|>"),
    writing=Writing(opens="<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>", closes=""),
)
# formats that stand in templates beside what looks like another's signs
SPECIFIC = (
    HARMONY,
    _pythonic("llama4_pythonic", opens=("<|python_start|>",), closes=("<|python_end|>",)),
    ToolFormat(
        name="olmo3",
        opens=("<function_calls>",),
        closes=("</function_calls>",),
        separators=("(",),
        between=" \t\r\n[],",
        lists=True,
        arguments="python",
        signs=("<function_calls>",),
        writing=Writing(
            begins="<function_calls>\n",
            opens="NAME(",
            closes=")",
            joint="\n",
            ends="\n</function_calls>",
            field_opens="KEY=",
            field_joint=", ",
        ),
    ),
    ToolFormat(
        name="qwen3_coder",
        opens=("<tool_call>", "<function="),
        closes=("</tool_call>",),
        separators=(">",),
        arguments=TaggedFields(key="<parameter=", named=">", closes="</parameter>", ends="</function>", pads=True),
        signs=("<function=", "<parameter="),
        writing=Writing(
            opens="<tool_call>\n<function=NAME>\n",
            closes="</function>\n</tool_call>",
            joint="\n",
            field_opens="<parameter=KEY>\n",
            field_closes="\n</parameter>\n",
        ),
    ),
    ToolFormat(
        name="glm45",
        opens=("<tool_call>",),
        separators=("\n", "<arg_key>", "</tool_call>"),
        arguments=TaggedFields(
            key="<arg_key>", named="</arg_key>", value="<arg_value>", closes="</arg_value>", ends="</tool_call>"
        ),
        signs=("<arg_key>", "<arg_value>"),
        writing=Writing(
            opens="<tool_call>NAME\n",
            closes="</tool_call>",
            joint="\n",
            field_opens="<arg_key>KEY</arg_key>\n<arg_value>",
            field_closes="</arg_value>\n",
        ),
    ),
)
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
        bare="{",
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
# for models whose template knows no tools: a prompt of ours presents them (prompt)
GENERIC = ToolFormat(name="generic", opens=("<tool_call>",), closes=("</tool_call>",), writing=TAGGED)
# written by models whose templates do not say so
PYTHONIC = _pythonic("pythonic")
TOOL_FORMATS = {one.name: one for one in (*FORMATS, *SPECIFIC, PYTHONIC, GENERIC)}

# templates that write calls in a way that no format above describes
FOREIGN_SIGNS = ("<function=", "<arg_key>")


def find_tool_format(template: str) -> ToolFormat:
    """The format that a chat template speaks of, else the generic one."""
    if "tools" not in template:
        return GENERIC
    is_foreign = any(sign in template for sign in FOREIGN_SIGNS)
    candidates = SPECIFIC if is_foreign else (*SPECIFIC, *FORMATS)
    return next((one for one in candidates if all(sign in template for sign in one.signs)), GENERIC)
