"""Tool-call formats of families that write arguments one by one: in Python syntax, between tags, or quoted."""

from serve_app.tools.tool_call_format import CallSyntax, QuotedFields, TaggedFields, ToolCallFormat

__all__ = ["FIELD_FORMATS", "PYTHONIC"]


def _pythonic(name: str, **markers: tuple[str, ...]) -> ToolCallFormat:
    return ToolCallFormat(
        name=name,
        opens=markers.get("opens", ()),
        closes=("]", *markers.get("closes", ())),
        separators=("(",),
        between=" \t\r\n[,",
        bare="[",
        lists=True,
        arguments="python",
        signs=markers.get("opens", ()),
        syntax=CallSyntax(
            begins="[", opens="NAME(", closes=")", joint=", ", ends="]", field_opens="KEY=", field_joint=", "
        ),
    )


def _calls_between(name: str, opens: str, closes: str, syntax: CallSyntax, sign: str) -> ToolCallFormat:
    """Calls in Python syntax between markers."""
    return ToolCallFormat(
        name=name,
        opens=(opens,),
        closes=(closes,),
        separators=("(",),
        between=" \t\r\n[],",
        lists=True,
        arguments="python",
        signs=(sign,),
        syntax=syntax,
    )


def _glm(name: str, signs: tuple[str, ...], line_break: str, tags: str = "") -> ToolCallFormat:
    """`tags`: what the names of tags begin with."""
    call, key, value = (f"{tags}{tag}" for tag in ("tool_call", "arg_key", "arg_value"))
    return ToolCallFormat(
        name=name,
        opens=(f"<{call}>",),
        separators=("\n", f"<{key}>", f"</{call}>"),
        arguments=TaggedFields(
            key=f"<{key}>", named=f"</{key}>", value=f"<{value}>", closes=f"</{value}>", ends=f"</{call}>"
        ),
        signs=signs,
        syntax=CallSyntax(
            opens=f"<{call}>NAME{line_break}",
            closes=f"</{call}>",
            joint=line_break,
            field_opens=f"<{key}>KEY</{key}>{line_break}<{value}>",
            field_closes=f"</{value}>{line_break}",
        ),
    )


def _dsml(name: str, block: str) -> ToolCallFormat:
    """DeepSeek's markup; `block` is around all calls of an answer."""
    key, closes = '<｜DSML｜parameter name="', "</｜DSML｜parameter>"
    return ToolCallFormat(
        name=name,
        opens=(f"<｜DSML｜{block}>", '<｜DSML｜invoke name="'),
        closes=(f"</｜DSML｜{block}>",),
        separators=('">',),
        arguments=TaggedFields(
            key=key, named='" string="false">', text_named='" string="true">', closes=closes, ends="</｜DSML｜invoke>"
        ),
        signs=("｜DSML｜", block),
        syntax=CallSyntax(
            begins=f"<｜DSML｜{block}>\n",
            opens='<｜DSML｜invoke name="NAME">\n',
            closes="</｜DSML｜invoke>",
            joint="\n",
            ends=f"\n</｜DSML｜{block}>",
            field_opens=f'{key}KEY" string="false">',
            text_opens=f'{key}KEY" string="true">',
            field_closes=f"{closes}\n",
        ),
    )


# a template may have the signs of several formats: the more specific ones come first
FIELD_FORMATS = (
    _pythonic("llama4_pythonic", opens=("<|python_start|>",), closes=("<|python_end|>",)),
    _calls_between(
        "olmo3",
        "<function_calls>",
        "</function_calls>",
        CallSyntax(
            begins="<function_calls>\n",
            opens="NAME(",
            closes=")",
            joint="\n",
            ends="\n</function_calls>",
            field_opens="KEY=",
            field_joint=", ",
        ),
        sign="<function_calls>",
    ),
    _calls_between(
        "lfm2",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        CallSyntax(
            begins="<|tool_call_start|>[",
            opens="NAME(",
            closes=")",
            joint=", ",
            ends="]<|tool_call_end|>",
            field_opens="KEY=",
            field_joint=", ",
        ),
        sign="<|tool_list_start|>",
    ),
    ToolCallFormat(
        name="minimax_m2",
        opens=("<minimax:tool_call>", '<invoke name="'),
        closes=("</minimax:tool_call>",),
        separators=('">',),
        arguments=TaggedFields(key='<parameter name="', named='">', closes="</parameter>", ends="</invoke>"),
        signs=("<minimax:tool_call>",),
        syntax=CallSyntax(
            begins="<minimax:tool_call>\n",
            opens='<invoke name="NAME">\n',
            closes="</invoke>",
            joint="\n",
            ends="\n</minimax:tool_call>",
            field_opens='<parameter name="KEY">',
            field_closes="</parameter>\n",
        ),
    ),
    _dsml("deepseek_v32", "function_calls"),
    _dsml("deepseek_v4", "tool_calls"),
    ToolCallFormat(
        name="step3",
        opens=("<｜tool_calls_begin｜>", '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="'),
        closes=("<｜tool_call_end｜>", "<｜tool_calls_end｜>"),
        separators=('">',),
        arguments=TaggedFields(
            key='<steptml:parameter name="', named='">', closes="</steptml:parameter>", ends="</steptml:invoke>"
        ),
        signs=("<steptml:invoke",),
        syntax=CallSyntax(
            begins="<｜tool_calls_begin｜>\n",
            opens='<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="NAME">\n',
            closes="</steptml:invoke><｜tool_call_end｜>",
            joint="\n",
            ends="\n<｜tool_calls_end｜>",
            field_opens='<steptml:parameter name="KEY">',
            field_closes="</steptml:parameter>\n",
        ),
    ),
    ToolCallFormat(
        name="seed_oss",
        opens=("<seed:tool_call>", "<function="),
        closes=("</seed:tool_call>",),
        separators=(">",),
        arguments=TaggedFields(key="<parameter=", named=">", closes="</parameter>", ends="</function>"),
        signs=("<seed:tool_call>", "<function="),
        syntax=CallSyntax(
            opens="<seed:tool_call>\n<function=NAME>\n",
            closes="</function>\n</seed:tool_call>",
            joint="\n",
            field_opens="<parameter=KEY>",
            field_closes="</parameter>\n",
        ),
    ),
    ToolCallFormat(
        name="qwen3_coder",
        opens=("<tool_call>", "<function="),
        closes=("</tool_call>",),
        separators=(">",),
        arguments=TaggedFields(key="<parameter=", named=">", closes="</parameter>", ends="</function>", pads=True),
        signs=("<function=", "<parameter="),
        syntax=CallSyntax(
            opens="<tool_call>\n<function=NAME>\n",
            closes="</function>\n</tool_call>",
            joint="\n",
            field_opens="<parameter=KEY>\n",
            field_closes="\n</parameter>\n",
        ),
    ),
    ToolCallFormat(
        name="gemma4",
        opens=("<|tool_call>",),
        closes=("<tool_call|>",),
        separators=("{",),
        arguments=QuotedFields(quote='<|"|>'),
        signs=("<|tool_call>", "<tool_call|>"),
        syntax=CallSyntax(opens="<|tool_call>call:NAME{", closes="}<tool_call|>", field_opens="KEY:", field_joint=","),
    ),
    _glm("glm47", ("{function-name}<arg_key>", "<arg_value>"), ""),
    _glm("glm45", ("<arg_key>", "<arg_value>"), "\n"),
    _glm("longcat_fields", ("<longcat_arg_key>", "<longcat_arg_value>"), "\n", "longcat_"),
)
# of models whose templates do not show it
PYTHONIC = _pythonic("pythonic")
