"""Renderer of /v1/chat/completions: deltas to server-sent events, or to one document."""

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from engine.types import TokenLogprob
from serve_app.api.responses import (
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    ChoiceLogprobs,
    PromptLogprobs,
    TokenLogprobs,
    ToolCall,
    TopLogprob,
)
from serve_app.chat.adapter import PreparedChat
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage
from serve_app.openai.events import EventWriter, usage_info
from serve_app.openai.logprobs import LOWEST, prompt_logprobs, top_alternatives
from serve_app.pipeline.renderer import ResponseMetadata
from serve_app.text.message_delta import MessageDelta, ToolCallDelta
from serve_app.text.vocabulary import Vocabulary
from serve_app.transport.errors import Fault
from serve_app.transport.sse import KEEP_ALIVE, json_text

__all__ = ["ChatRenderer"]

NO_LOGPROBS = b"null"

encode = msgspec.json.encode


class ChatRenderer:
    id_prefix = "chatcmpl-"
    keep_alive = KEEP_ALIVE

    def stream(self, answer: PreparedChat, metadata: ResponseMetadata, vocabulary: Vocabulary) -> "_ChatStream":
        return _ChatStream(answer, metadata, vocabulary)

    def document(self, answer: PreparedChat, metadata: ResponseMetadata, vocabulary: Vocabulary) -> "_ChatDocument":
        return _ChatDocument(answer, metadata, vocabulary)


class _ChatStream:
    """The StreamRenderer of chat completions."""

    def __init__(self, answer: PreparedChat, metadata: ResponseMetadata, vocabulary: Vocabulary) -> None:
        self._writer = EventWriter("chat.completion.chunk", metadata, answer.delivery)
        self._answer = answer
        self._vocabulary = vocabulary
        self._sends_ids = answer.delivery.token_ids

    @property
    def wants_usage(self) -> bool:
        return self._writer.wants_usage

    def opening(self, usage: Usage) -> bytes:
        """The events with the role of every choice, before any text."""
        answer, start = self._answer, self._writer.start
        prompt = b"".join(b'"%b":%b,' % (name.encode(), _json(value)) for name, value in _prompt(answer).items())
        start = start.replace(b'"choices"', prompt + b'"choices"', 1)
        role = b'"role":%b,"content":""' % encode(answer.role)
        nothing = msgspec.structs.replace(usage, completion_tokens=0)
        choices = range(_num_choices(answer))
        events = [self._plain_event(index, role, nothing, start) for index in choices]
        if answer.echo:
            echo = b'"content":' + json_text(answer.echo)
            events += [self._plain_event(index, echo, nothing) for index in choices]
        return b"".join(events)

    def delta(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        pieces = _delta_pieces(_merged(delta.message, self._answer), self._answer)
        sends_ids = self._sends_ids and bool(delta.tokens)
        if not pieces and not delta.logprobs and not sends_ids and delta.finish_reason is None:
            return b""
        last = pieces.pop() if pieces else b""
        logprobs = NO_LOGPROBS
        if delta.logprobs:
            entries = [_token_logprobs(entry, self._answer, self._vocabulary) for entry in delta.logprobs]
            logprobs = encode(ChoiceLogprobs(content=entries))
        token_ids = b',"token_ids":' + encode(delta.tokens) if sends_ids else b""
        event = self._last_event(delta, last, logprobs + token_ids, usage)
        if not pieces:
            return event
        return b"".join(self._plain_event(delta.index, piece, usage) for piece in pieces) + event

    def closing(self, usage: Usage) -> bytes:
        return self._writer.closing(usage)

    def fault(self, fault: Fault) -> bytes:
        return self._writer.fault(fault)

    def _plain_event(self, index: int, piece: bytes, usage: Usage | None, start: bytes | None = None) -> bytes:
        choice = b'{"index":%d,"delta":{%b},"logprobs":null,"finish_reason":null}' % (index, piece)
        return self._writer.event(choice, usage, start=start)

    def _last_event(self, delta: ChoiceDelta, piece: bytes, logprobs: bytes, usage: Usage | None) -> bytes:
        """A delta's last event. `logprobs`: JSON of logprobs and token ids."""
        if delta.finish_reason is None:
            choice = b'{"index":%d,"delta":{%b},"logprobs":%b,"finish_reason":null}' % (delta.index, piece, logprobs)
            return self._writer.event(choice, usage)
        choice = b'{"index":%d,"delta":{%b},"logprobs":%b,"finish_reason":%b,"stop_reason":%b}' % (
            delta.index,
            piece,
            logprobs,
            encode(_finish_reason(delta, self._answer)),
            encode(delta.stop_reason),
        )
        return self._writer.event(choice, usage, is_last=True)


class _ChatDocument:
    """The DocumentRenderer of chat completions."""

    def __init__(self, answer: PreparedChat, metadata: ResponseMetadata, vocabulary: Vocabulary) -> None:
        num_choices = _num_choices(answer)
        self._answer = answer
        self._metadata = metadata
        self._vocabulary = vocabulary
        self._messages: list[list[MessageDelta]] = [[] for _ in range(num_choices)]
        self._tokens: list[list[int]] = [[] for _ in range(num_choices)]
        self._logprobs: list[list[msgspec.Raw]] = [[] for _ in range(num_choices)]  # serialized as they come
        self._ends: list[ChoiceDelta | None] = [None] * num_choices
        self._prompt_logprobs: PromptLogprobs | None = None

    def add(self, delta: ChoiceDelta) -> None:
        self._messages[delta.index].append(_merged(delta.message, self._answer))
        self._tokens[delta.index] += delta.tokens
        for entry in delta.logprobs:
            written = encode(_token_logprobs(entry, self._answer, self._vocabulary))
            self._logprobs[delta.index].append(msgspec.Raw(written))
        if delta.finish_reason is not None:
            self._ends[delta.index] = delta
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = prompt_logprobs(delta.prompt_logprobs, self._vocabulary)

    def body(self, usage: Usage) -> bytes:
        metadata = self._metadata
        document: ChatCompletion = {
            "id": metadata.id,
            "object": "chat.completion",
            "created": metadata.created,
            "model": metadata.model,
            "choices": [self._choice(index) for index in range(len(self._ends))],
            "usage": usage_info(usage),
            "service_tier": None,
            "system_fingerprint": metadata.fingerprint,
            "prompt_token_ids": None,
            "prompt_logprobs": self._prompt_logprobs,
            "kv_transfer_params": None,
        }
        document.update(cast("ChatCompletion", _prompt(self._answer)))
        return encode(document)

    def _choice(self, index: int) -> ChatChoice:
        end = self._ends[index]
        assert end is not None, "an answer is written when every choice has finished"
        choice: ChatChoice = {
            "index": index,
            "message": self._message(self._messages[index]),
            "logprobs": None,
            "finish_reason": _finish_reason(end, self._answer),
            "stop_reason": end.stop_reason,
            "token_ids": self._tokens[index] if self._answer.delivery.token_ids else None,
        }
        if _num_logprobs(self._answer) is not None:
            choice["logprobs"] = {"content": cast("list[TokenLogprobs]", self._logprobs[index])}
        return choice

    def _message(self, deltas: list[MessageDelta]) -> ChatMessage:
        content = self._answer.echo + "".join(piece.content for piece in deltas)
        message: ChatMessage = {"role": self._answer.role, "content": content}
        if reasoning := "".join(piece.reasoning for piece in deltas):
            message["reasoning"] = message["reasoning_content"] = reasoning
        calls = _whole_calls(piece for one in deltas for piece in one.tool_calls)
        if calls and self._answer.calls_functions:
            message["function_call"] = calls[0]["function"]
        elif calls:
            message["tool_calls"] = calls
        if calls:
            message["content"] = content or None
        return message


def _num_choices(answer: PreparedChat) -> int:
    return len(answer.parts) * answer.num_choices


def _num_logprobs(answer: PreparedChat) -> int | None:
    return answer.parts[0].request.sampling.num_logprobs


def _prompt(answer: PreparedChat) -> dict[str, Any]:
    """The fields about the prompt."""
    ids = answer.parts[0].request.prompt if answer.delivery.token_ids else None
    shown = {"prompt_token_ids": ids, "prompt_text": answer.prompt}
    return {name: value for name, value in shown.items() if value is not None}


def _json(value: Any) -> bytes:
    return json_text(value) if isinstance(value, str) else encode(value)


def _merged(message: MessageDelta, answer: PreparedChat) -> MessageDelta:
    """The delta with reasoning as content, before other content, if the client wants it so."""
    if not answer.merges_reasoning or not message.reasoning:
        return message
    return msgspec.structs.replace(message, content=message.reasoning + message.content, reasoning="")


def _finish_reason(delta: ChoiceDelta, answer: PreparedChat) -> str | None:
    return "function_call" if answer.calls_functions and delta.finish_reason == "tool_calls" else delta.finish_reason


def _delta_pieces(message: MessageDelta, answer: PreparedChat) -> list[bytes]:
    """The contents of `delta`, one for each event: reasoning, text and each tool-call delta on its own."""
    pieces = []
    if message.reasoning:
        text = json_text(message.reasoning)
        pieces.append(b'"reasoning":%b,"reasoning_content":%b' % (text, text))
    if message.content:
        pieces.append(b'"content":' + json_text(message.content))
    for call in message.tool_calls:
        pieces.append(_function_call(call) if answer.calls_functions else _tool_call(call))
    return pieces


def _function_call(call: ToolCallDelta) -> bytes:
    name = b'"name":%b,' % json_text(call.name) if call.name is not None else b""
    return b'"function_call":{%b"arguments":%b}' % (name, json_text(call.arguments))


def _tool_call(call: ToolCallDelta) -> bytes:
    if call.name is None:
        return b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (call.index, json_text(call.arguments))
    return b'"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":""}}]' % (
        call.index,
        encode(call.id),
        json_text(call.name),
    )


def _whole_calls(pieces: Iterable[ToolCallDelta]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for piece in pieces:
        if piece.name is not None:
            calls.append({"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": ""}})
        calls[-1]["function"]["arguments"] += piece.arguments
    return calls


def _token_logprobs(entry: TokenLogprob, answer: PreparedChat, vocabulary: Vocabulary) -> TokenLogprobs:
    """The most likely alternatives first."""

    def shape(token: int, logprob: float) -> TopLogprob:
        # a special token has no bytes here, so that the joined bytes are the text
        data = vocabulary.shown_bytes[token] if token < vocabulary.num_tokens else b""
        name = f"token_id:{token}" if answer.delivery.tokens_as_ids else vocabulary.text(token)
        return {"token": name, "logprob": max(logprob, LOWEST), "bytes": list(data)}

    alternatives = [shape(*pair) for pair in top_alternatives(entry, _num_logprobs(answer))]
    return {**shape(entry.token, entry.logprob), "top_logprobs": alternatives}
