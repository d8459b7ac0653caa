"""How a chat answer looks on the wire: as events, or whole. Both are written from the same deltas."""

from collections.abc import Iterable
from typing import Any

import msgspec

from engine.types import TokenLogprob
from serve_app.generation.choice import Delta
from serve_app.generation.logprobs import LOWEST, Shown, shown_prompt, told_alternatives
from serve_app.generation.reply import Usage
from serve_app.http.answer_head import AnswerHead
from serve_app.http.sse import DONE, event, event_head, json_text
from serve_app.text.said import CallPiece, Said
from serve_app.text.vocabulary import Vocabulary

__all__ = ["ChatEvents", "ChatWhole"]

NO_LOGPROBS = b"null"

encode = msgspec.json.encode


class ChatEvents:
    """Writes server-sent events."""

    def __init__(self, head: AnswerHead, vocabulary: Vocabulary, *, usage: bool, continuous_usage: bool) -> None:
        self._start = event_head(head.id, "chat.completion.chunk", head.created, head.model)
        self._head = head
        self._vocabulary = vocabulary
        self._usage = usage
        self._continuous = usage and continuous_usage

    @property
    def wants_usage(self) -> bool:
        """Whether every event carries the usage so far."""
        return self._continuous

    def opening(self, usage: Usage) -> bytes:
        """The role of every choice, before any text."""
        head = self._head
        told = b"".join(b'"%b":%b,' % (name.encode(), _json(value)) for name, value in _prompt(head).items())
        start = self._start.replace(b'"choices"', told + b'"choices"', 1)
        role = b'"role":%b,"content":""' % encode(head.role)
        nothing = msgspec.structs.replace(usage, completion_tokens=0)
        events = [self._plain_event(index, role, nothing, start) for index in range(head.n)]
        if head.echo:
            echo = b'"content":' + json_text(head.echo)
            events += [self._plain_event(index, echo, nothing) for index in range(head.n)]
        return b"".join(events)

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        """The events for one delta, b"" where it says nothing. `usage` is read only where every event carries it."""
        said = _said(_told(delta.said, self._head), self._head)
        tells_ids = self._head.prompt_token_ids is not None and bool(delta.tokens)
        if not said and not delta.logprobs and not tells_ids and delta.finish_reason is None:
            return b""
        last = said.pop() if said else b""
        logprobs, more = NO_LOGPROBS, b""
        if delta.logprobs:
            entries = [_shown_logprob(entry, self._head, self._vocabulary) for entry in delta.logprobs]
            logprobs = encode({"content": entries})
        if tells_ids:
            more = b',"token_ids":' + encode(delta.tokens)
        event_ = self._event(self._start, delta.index, last, logprobs, more, delta, usage)
        if not said:
            return event_
        return b"".join(self._plain_event(delta.index, piece, usage) for piece in said) + event_

    def closing(self, usage: Usage) -> bytes:
        """The usage event, if it was asked for, and the end."""
        return event(self._start, b"", self._head.fingerprint, usage) + DONE if self._usage else DONE

    def _plain_event(self, index: int, said: bytes, usage: Usage | None, start: bytes | None = None) -> bytes:
        return self._event(start or self._start, index, said, NO_LOGPROBS, b"", None, usage)

    def _event(
        self,
        start: bytes,
        index: int,
        said: bytes,
        logprobs: bytes,
        more: bytes,
        delta: Delta | None,
        usage: Usage | None,
    ) -> bytes:
        shown = usage if self._continuous else None
        if delta is None or delta.finish_reason is None:
            choice = b'{"index":%d,"delta":{%b},"logprobs":%b%b,"finish_reason":null}' % (index, said, logprobs, more)
            return event(start, choice, None, shown)
        reasons = encode(_reason(delta, self._head)), encode(delta.stop_reason)
        choice = b'{"index":%d,"delta":{%b},"logprobs":%b%b,"finish_reason":%b,"stop_reason":%b}' % (
            index,
            said,
            logprobs,
            more,
            *reasons,
        )
        return event(start, choice, None if self._usage else self._head.fingerprint, shown)


def _prompt(head: AnswerHead) -> dict[str, Any]:
    """What is told of the prompt."""
    told = {"prompt_token_ids": head.prompt_token_ids, "prompt_text": head.prompt_text}
    return {name: value for name, value in told.items() if value is not None}


def _json(value: Any) -> bytes:
    return json_text(value) if isinstance(value, str) else encode(value)


def _told(said: Said, head: AnswerHead) -> Said:
    """What is told, under the names that the client wants: thinking comes before what is said."""
    if not head.merges_reasoning or not said.reasoning:
        return said
    return msgspec.structs.replace(said, content=said.reasoning + said.content, reasoning="")


def _reason(delta: Delta, head: AnswerHead) -> str | None:
    return "function_call" if head.calls_functions and delta.finish_reason == "tool_calls" else delta.finish_reason


def _said(said: Said, head: AnswerHead) -> list[bytes]:
    """The insides of `delta`, one for each event: a reader takes thinking, text and each piece of a call alone."""
    events = []
    if said.reasoning:
        text = json_text(said.reasoning)
        events.append(b'"reasoning":%b,"reasoning_content":%b' % (text, text))
    if said.content:
        events.append(b'"content":' + json_text(said.content))
    for piece in said.calls:
        if head.calls_functions:
            name = b'"name":%b,' % json_text(piece.name) if piece.name is not None else b""
            events.append(b'"function_call":{%b"arguments":%b}' % (name, json_text(piece.arguments)))
            continue
        if piece.name is None:
            call = b'{"index":%d,"function":{"arguments":%b}}' % (piece.index, json_text(piece.arguments))
        else:
            call = b'{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":""}}' % (
                piece.index,
                encode(piece.id),
                json_text(piece.name),
            )
        events.append(b'"tool_calls":[%b]' % call)
    return events


class ChatWhole:
    """Gathers the deltas of an answer that is sent at once."""

    def __init__(self, head: AnswerHead, vocabulary: Vocabulary) -> None:
        self._head = head
        self._vocabulary = vocabulary
        self._said: list[list[Said]] = [[] for _ in range(head.n)]
        self._tokens: list[list[int]] = [[] for _ in range(head.n)]
        self._logprobs: list[list[msgspec.Raw]] = [[] for _ in range(head.n)]  # written as they come
        self._ends: list[Delta | None] = [None] * head.n
        self._prompt_logprobs: Shown | None = None

    def add(self, delta: Delta) -> None:
        self._said[delta.index].append(_told(delta.said, self._head))
        self._tokens[delta.index] += delta.tokens
        for entry in delta.logprobs:
            written = encode(_shown_logprob(entry, self._head, self._vocabulary))
            self._logprobs[delta.index].append(msgspec.Raw(written))
        if delta.finish_reason is not None:
            self._ends[delta.index] = delta
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = shown_prompt(delta.prompt_logprobs, self._vocabulary)

    def body(self, usage: Usage) -> bytes:
        head = self._head
        document = {
            "id": head.id,
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [self._choice(index) for index in range(head.n)],
            "usage": usage.shown(),
            "system_fingerprint": head.fingerprint,
        }
        document |= _prompt(head)
        if self._prompt_logprobs is not None:
            document["prompt_logprobs"] = self._prompt_logprobs
        return encode(document)

    def _choice(self, index: int) -> dict[str, Any]:
        end = self._ends[index]
        assert end is not None, "an answer is written when every choice has finished"
        head = self._head
        shown = {
            "index": index,
            "message": self._message(self._said[index]),
            "logprobs": None,
            "finish_reason": _reason(end, head),
            "stop_reason": end.stop_reason,
        }
        if head.num_logprobs is not None:
            shown["logprobs"] = {"content": self._logprobs[index]}
        if head.prompt_token_ids is not None:
            shown["token_ids"] = self._tokens[index]
        return shown

    def _message(self, said: list[Said]) -> dict[str, Any]:
        content = self._head.echo + "".join(piece.content for piece in said)
        message: dict[str, Any] = {"role": self._head.role, "content": content}
        if reasoning := "".join(piece.reasoning for piece in said):
            message["reasoning"] = message["reasoning_content"] = reasoning
        if calls := _whole_calls(piece for one in said for piece in one.calls):
            message |= {"function_call": calls[0]["function"]} if self._head.calls_functions else {"tool_calls": calls}
            message["content"] = content or None
        return message


def _whole_calls(pieces: Iterable[CallPiece]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        if piece.name is not None:
            calls.append({"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": ""}})
        calls[-1]["function"]["arguments"] += piece.arguments
    return calls


def _shown_logprob(entry: TokenLogprob, head: AnswerHead, vocabulary: Vocabulary) -> dict[str, Any]:
    """OpenAI's shape, the most likely alternatives first."""

    def shown(token: int, logprob: float) -> dict[str, Any]:
        # a special token has no bytes in the text, so that all bytes joined are the text
        data = vocabulary.shown_bytes[token] if token < vocabulary.num_tokens else b""
        name = f"token_id:{token}" if head.names_ids else vocabulary.text(token)
        return {"token": name, "logprob": max(logprob, LOWEST), "bytes": list(data)}

    alternatives = [shown(*pair) for pair in told_alternatives(entry, head.num_logprobs)]
    return {**shown(entry.token, entry.logprob), "top_logprobs": alternatives}
