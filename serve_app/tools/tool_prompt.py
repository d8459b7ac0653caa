"""Tool prompt: describes tools in the system message, for a model whose chat template has none.

Calls and results of earlier turns are written in the same format.
"""

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["with_tools_in_text"]

WORDS = """You may call functions. These are known, one JSON object per line:
{tools}

To call a function, write exactly this, once for each call:
<tool_call>
{{"name": "FUNCTION", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>"""


def with_tools_in_text(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with tools, calls and results as text."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        shown = _plain(message)
        if message["role"] == "tool" and plain and plain[-1].get("is_results"):
            plain[-1]["content"] += "\n" + shown["content"]
        else:
            plain.append(shown)
    for message in plain:
        message.pop("is_results", None)
    if not tools:
        return plain
    words = WORDS.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
    if plain and plain[0]["role"] in ("system", "developer"):
        plain[0]["content"] = f"{plain[0]['content']}\n\n{words}"
        return plain
    return [{"role": "system", "content": words}, *plain]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        content = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": content, "is_results": True}
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", [])
    ]
    texts = [message["content"]] if message["content"] else []
    return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": "\n".join(texts + calls)}
