"""Messages of content blocks: from Anthropic's wire model to neutral messages."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from engine.errors import RequestError
from serve_app.messages.requests import Block, InputMessage, ResultBlock, TextBlock
from serve_app.request.conversation import Message, ToolCall
from serve_app.tenants.sealing import open_sealed

__all__ = ["neutral_messages", "system_text"]

# Claude Code puts its version and a hash of the request into its system prompt: no prefix would ever be found again
BILLING_LINE = re.compile(r"^x-anthropic-billing-header:.*(\n|\Z)", re.MULTILINE)


class Turn(msgspec.Struct):
    """Neighboring messages of one role, which are one turn."""

    role: str
    blocks: list[tuple[str, Block]]  # each with its field


def system_text(system: str | Sequence[TextBlock]) -> str:
    """The system prompt without lines that a client changes in every request."""
    texts = [system] if isinstance(system, str) else [block.text for block in system]
    kept = [BILLING_LINE.sub("", text) for text in texts]
    return "\n".join(text for text in kept if text)


def neutral_messages(messages: Sequence[InputMessage], seal_key: bytes) -> tuple[Message, ...]:
    """Raises RequestError that names the block."""
    turns = _turns(messages)
    _check_results(turns)
    return tuple(message for turn in turns for message in _neutral(turn, seal_key))


def _turns(messages: Sequence[InputMessage]) -> list[Turn]:
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        at, content = f"messages.{index}", message.content
        if not content and message.role != "assistant":
            raise RequestError(f"{at}: {message.role} messages must have non-empty content", param=f"{at}.content")
        if isinstance(content, str):
            blocks = [(f"{at}.content", Block(type="text", text=content))]
        else:
            blocks = [(f"{at}.content.{position}", block) for position, block in enumerate(content)]
        if turns and turns[-1].role == message.role:
            turns[-1].blocks += blocks
        else:
            turns.append(Turn(message.role, blocks))
    return turns


def _check_results(turns: Sequence[Turn]) -> None:
    """Each tool_use has its tool_result in the next turn, and the other way round."""
    waiting: dict[str, str] = {}  # id -> field
    for turn in turns:
        if turn.role == "system":
            continue
        for at, block in turn.blocks:
            if block.type == "tool_result" and waiting.pop(block.tool_use_id or "", None) is None:
                raise RequestError(
                    f"{at}: unexpected tool_use_id found in tool_result blocks: {block.tool_use_id}. Each tool_result "
                    "block must have a corresponding tool_use block in the previous message.",
                    param=f"{at}.tool_use_id",
                )
        if waiting:
            break
        waiting = {block.id or "": at for at, block in turn.blocks if block.type == "tool_use"}
    for at in waiting.values():
        raise RequestError(
            f"{at}: tool_use ids were found without tool_result blocks immediately after: {', '.join(waiting)}. "
            "Each tool_use block must have a corresponding tool_result block in the next message.",
            param=at,
        )


def _neutral(turn: Turn, seal_key: bytes) -> Iterator[Message]:
    if turn.role == "assistant":
        yield _assistant(turn, seal_key)
        return
    texts: list[str] = []
    for at, block in turn.blocks:
        if block.type != "tool_result":
            texts.append(_text(block, at))
            continue
        if texts:
            yield Message(role=turn.role, content="\n".join(texts))
            texts = []
        yield Message(role="tool", content=_result(block, at), tool_call_id=block.tool_use_id)
    if texts:
        yield Message(role=turn.role, content="\n".join(texts))


def _assistant(turn: Turn, seal_key: bytes) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for at, block in turn.blocks:
        match block.type:
            case "thinking" | "redacted_thinking":
                thoughts.append(_thought(block, seal_key))
            case "tool_use":
                calls.append(_call(block, at))
            case _:
                texts.append(_text(block, at))
    reasoning = "".join(thoughts)
    return Message(role="assistant", content="".join(texts), reasoning=reasoning or None, tool_calls=tuple(calls))


def _thought(block: Block, seal_key: bytes) -> str:
    """The text as it comes, also from other servers; an omitted one is in the signature, if that is ours."""
    return block.thinking or open_sealed(block.signature or block.data or "", seal_key) or ""


def _call(block: Block, at: str) -> ToolCall:
    for field, value in (("id", block.id), ("name", block.name)):
        if not value:
            raise RequestError(f"{at}.{field}: missing", param=f"{at}.{field}")
    return ToolCall(block.id or "", block.name or "", block.input or {})


def _result(block: Block, at: str) -> str:
    content = block.content or ""
    if not isinstance(content, str):
        content = "\n".join(_text(inner, f"{at}.content.{position}") for position, inner in enumerate(content))
    # chat templates have no other place for it
    is_told = not block.is_error or content.lower().startswith("error")
    return content if is_told else f"Error: {content}"


def _text(block: ResultBlock, at: str) -> str:
    """The text of a block, of a document, or of a search result."""
    text = block.text
    match block.type:
        case "document" if block.source is not None and not isinstance(block.source, str):
            source = block.source.data if block.source.type == "text" else block.source.content
            text = source if isinstance(source, str) or source is None else "\n".join(one.text for one in source)
            if text is None:
                raise _unread(f"a document of type {block.source.type[:40]!r}", at)
        case "search_result" if isinstance(block, Block) and block.content is not None:
            text = _result(block, at)
        case "tool_reference":
            return block.tool_name or ""
        case "text":
            pass
        case _:
            raise _unread(repr(block.type[:40]), at)
    if text is None:
        raise RequestError(f"{at}.text: missing", param=f"{at}.text")
    return f"{block.title}\n{text}" if block.title else text


def _unread(kind: str, at: str) -> RequestError:
    return RequestError(f"{at}.type: this model reads text only, not {kind}", param=f"{at}.type")
