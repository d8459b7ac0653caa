"""Tool-call format of a family of models, from which parser and grammar are made."""

from typing import Literal

import msgspec

__all__ = ["CallSyntax", "QuotedFields", "TaggedFields", "ToolCallFormat"]


class CallSyntax(msgspec.Struct, frozen=True, kw_only=True):
    """The syntax of calls that the grammar enforces: the one that the model was trained on."""

    begins: str = ""  # before the first call
    opens: str  # up to the arguments, with NAME for the tool's name
    closes: str  # after the arguments
    joint: str = ""  # between calls
    ends: str = ""  # after the last
    # for arguments written one by one
    field_opens: str = ""  # before a value, with KEY for the argument's name
    text_opens: str = ""  # the same before a bare string, where it differs
    field_closes: str = ""
    field_joint: str = ""  # between arguments


class TaggedFields(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments one by one between tags: key NAME named [value] VALUE closes ... ends."""

    key: str
    named: str
    text_named: str = ""  # in its place before a bare string, where tags tell strings from JSON
    value: str = ""
    closes: str
    ends: str  # of the call
    pads: bool = False  # a line break at either end of a value is dropped

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(
            marker for marker in (self.key, self.named, self.text_named, self.value, self.closes, self.ends) if marker
        )


class QuotedFields(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments in JSON's syntax, with keys without quotes and strings, without escapes, between markers."""

    quote: str

    @property
    def markers(self) -> tuple[str, ...]:
        return (self.quote,)


class ToolCallFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A call is an opening marker, then either an object with name and arguments or a name, a separator and arguments.

    Arguments are a JSON object, or are written one by one: in Python syntax, between tags, or with strings in quotes
    of the model's own.

    hermes       <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>
    mistral      [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]    or    [TOOL_CALLS]f[ARGS]{"a": 1}
    kimi_k2      <|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>
    pythonic     [f(a=1)]
    qwen3_coder  <tool_call><function=f><parameter=a>1</parameter></function></tool_call>
    minimax_m2   <minimax:tool_call><invoke name="f"><parameter name="a">1</parameter></invoke></minimax:tool_call>
    gemma4       <|tool_call>call:f{a:1,b:<|"|>text<|"|>}<tool_call|>
    """

    name: str
    opens: tuple[str, ...]
    closes: tuple[str, ...] = ()
    separators: tuple[str, ...] = ()  # between name and arguments; (): calls are objects
    between: str = " \t\r\n"  # characters allowed between calls
    bare: str = ""  # this character at the very beginning of the answer begins a call without a marker
    lists: bool = False  # any number of names and arguments behind one opening marker
    arguments: Literal["json", "python"] | TaggedFields | QuotedFields = "json"
    short_ids: bool = False  # ids of nine letters and digits, as the template requires
    signs: tuple[str, ...] = ()  # texts that are all in the chat templates of such models
    syntax: CallSyntax

    @property
    def markers(self) -> tuple[str, ...]:
        fields = self.arguments.markers if isinstance(self.arguments, TaggedFields | QuotedFields) else ()
        return (*self.opens, *self.closes, *self.separators, *fields)
