"""Tool-call formats of families that write a call's arguments as one JSON object."""

import msgspec

from serve_app.tools.tool_call_format import CallSyntax, ToolCallFormat

__all__ = ["GENERIC", "JSON_FORMATS"]


def _list_of_objects(begins: str, ends: str = "") -> CallSyntax:
    return CallSyntax(
        begins=f"{begins}[", opens='{"name": "NAME", "arguments": ', closes="}", joint=", ", ends=f"]{ends}"
    )


def _tagged_objects(name: str, tag: str) -> ToolCallFormat:
    return ToolCallFormat(
        name=name,
        opens=(f"<{tag}>",),
        closes=(f"</{tag}>",),
        signs=(f"<{tag}>",),
        syntax=CallSyntax(opens=f'<{tag}>\n{{"name": "NAME", "arguments": ', closes=f"}}\n</{tag}>", joint="\n"),
    )


HUNYUAN = ToolCallFormat(
    name="hunyuan_a13b",
    opens=("<tool_calls>",),
    closes=("</tool_calls>",),
    between=" \t\r\n[],",
    signs=("<tool_calls>",),
    syntax=_list_of_objects("<tool_calls>", "</tool_calls>"),
)
JSON_FORMATS = (
    ToolCallFormat(
        name="mistral_v11",
        opens=("[TOOL_CALLS]",),
        separators=("[ARGS]",),
        between=" \t\r\n[],",
        short_ids=True,
        signs=("[TOOL_CALLS]", "[ARGS]"),
        syntax=CallSyntax(opens="[TOOL_CALLS]NAME[ARGS]", closes=""),
    ),
    ToolCallFormat(
        name="mistral",
        opens=("[TOOL_CALLS]",),
        separators=("[ARGS]",),
        between=" \t\r\n[],",
        short_ids=True,
        signs=("[TOOL_CALLS]",),
        syntax=_list_of_objects("[TOOL_CALLS]"),
    ),
    ToolCallFormat(
        name="deepseek_v3",
        opens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
        closes=("```<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        separators=("\n```json\n",),
        signs=("<｜tool▁calls▁begin｜>", "```json"),
        syntax=CallSyntax(
            begins="<｜tool▁calls▁begin｜>",
            opens="<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n",
            closes="\n```<｜tool▁call▁end｜>",
            joint="\n",
            ends="<｜tool▁calls▁end｜>",
        ),
    ),
    ToolCallFormat(
        name="deepseek_v31",
        opens=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        closes=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
        separators=("<｜tool▁sep｜>",),
        signs=("<｜tool▁calls▁begin｜>",),
        syntax=CallSyntax(
            begins="<｜tool▁calls▁begin｜>",
            opens="<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>",
            closes="<｜tool▁call▁end｜>",
            ends="<｜tool▁calls▁end｜>",
        ),
    ),
    ToolCallFormat(
        name="kimi_k2",
        opens=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        closes=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
        separators=("<|tool_call_argument_begin|>",),
        signs=("<|tool_calls_section_begin|>",),
        syntax=CallSyntax(
            begins="<|tool_calls_section_begin|>",
            opens="<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>",
            closes="<|tool_call_end|>",
            ends="<|tool_calls_section_end|>",
        ),
    ),
    ToolCallFormat(
        name="llama3_json",
        opens=("<|python_tag|>",),
        between=" \t\r\n;,[]",
        bare="{",
        signs=('"parameters"', "ipython"),
        syntax=CallSyntax(opens='{"name": "NAME", "parameters": ', closes="}", joint="; "),
    ),
    ToolCallFormat(
        name="granite",
        opens=("<|tool_call|>",),
        between=" \t\r\n[],",
        signs=("<|tool_call|>",),
        syntax=_list_of_objects("<|tool_call|>"),
    ),
    ToolCallFormat(
        name="phi4_mini_json",
        opens=("functools",),
        between=" \t\r\n[],",
        signs=("functools",),
        syntax=_list_of_objects("functools"),
    ),
    ToolCallFormat(
        name="granite-20b-fc",
        opens=("<function_call>",),
        signs=("<function_call>",),
        syntax=CallSyntax(opens='<function_call> {"name": "NAME", "arguments": ', closes="}"),
    ),
    ToolCallFormat(
        name="internlm",
        opens=("<|action_start|>", "<|plugin|>"),
        closes=("<|action_end|>",),
        signs=("<|action_start|>", "<|plugin|>"),
        syntax=CallSyntax(
            opens='<|action_start|><|plugin|>\n{"name": "NAME", "parameters": ', closes="}<|action_end|>"
        ),
    ),
    ToolCallFormat(
        name="cohere_command3",
        opens=("<|START_ACTION|>",),
        closes=("<|END_ACTION|>",),
        between=" \t\r\n[],",
        signs=("<|START_ACTION|>",),
        syntax=CallSyntax(
            begins="<|START_ACTION|>[\n    ",
            opens='{"tool_call_id": "0", "tool_name": "NAME", "parameters": ',
            closes="}",
            joint=",\n    ",
            ends="]<|END_ACTION|>",
        ),
    ),
    HUNYUAN,
    msgspec.structs.replace(HUNYUAN, name="jamba"),
    ToolCallFormat(
        name="xlam",
        opens=(),
        between=" \t\r\n[],",
        bare="[",
        signs=("calls in a single JSON array",),
        syntax=_list_of_objects(""),
    ),
    _tagged_objects("longcat", "longcat_tool_call"),
    _tagged_objects("hermes", "tool_call"),
)
# for models whose template has no tools: tool_prompt.py describes them
GENERIC = msgspec.structs.replace(JSON_FORMATS[-1], name="generic", signs=())
