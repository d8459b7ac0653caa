"""How a chat answer looks on the wire: as events, or whole. Both are written from the same deltas."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.types import TokenLogprob
from serve_app.choice import Delta
from serve_app.reply import Usage
from serve_app.sse import DONE, event, event_head, json_text
from serve_app.vocabulary import Vocabulary

__all__ = ["AnswerHead", "ChatEvents", "ChatWhole"]

LOWEST = -9999.0  # JSON has no -inf

encode = msgspec.json.encode


class AnswerHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same in every piece of one answer."""

    id: str
    created: int  # unix seconds
    model: str
    role: str = "assistant"
    n: int = 1
    fingerprint: str | None = None
    num_logprobs: int | None = None  # alternatives per token; None: no logprobs
    echo: str = ""  # every choice's text begins with it
    prompt_token_ids: tuple[int, ...] | None = None  # told, as are the answer's, if not None
    names_ids: bool = False  # logprobs name tokens as token_id:N


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
        start = self._start
        if head.prompt_token_ids is not None:
            start = start.replace(b'"choices"', b'"prompt_token_ids":%b,"choices"' % encode(head.prompt_token_ids), 1)
        role = b'"role":%b,"content":""' % encode(head.role)
        nothing = msgspec.structs.replace(usage, completion_tokens=0)
        events = [self._event(start, index, role, b"", None, nothing) for index in range(head.n)]
        if head.echo:
            echo = b'"content":' + json_text(head.echo)
            events += [self._event(self._start, index, echo, b"", None, nothing) for index in range(head.n)]
        return b"".join(events)

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        """The event for one delta, b"" where it says nothing. `usage` is read only where every event carries it."""
        tells_ids = self._head.prompt_token_ids is not None and bool(delta.tokens)
        if not delta.text and not delta.logprobs and not tells_ids and delta.finish_reason is None:
            return b""
        said = b'"content":' + json_text(delta.text) if delta.text else b""
        more = b""
        if delta.logprobs:
            more = b',"logprobs":' + encode(chat_logprobs(delta.logprobs, self._head, self._vocabulary))
        if tells_ids:
            more += b',"token_ids":' + encode(delta.tokens)
        return self._event(self._start, delta.index, said, more, delta, usage)

    def closing(self, usage: Usage) -> bytes:
        """The usage event, if it was asked for, and the end."""
        return event(self._start, b"", self._head.fingerprint, usage) + DONE if self._usage else DONE

    def _event(
        self, start: bytes, index: int, said: bytes, more: bytes, delta: Delta | None, usage: Usage | None
    ) -> bytes:
        shown = usage if self._continuous else None
        logprobs = b"" if b'"logprobs"' in more[:12] else b',"logprobs":null'
        if delta is None or delta.finish_reason is None:
            choice = b'{"index":%d,"delta":{%b}%b%b,"finish_reason":null}' % (index, said, logprobs, more)
            return event(start, choice, None, shown)
        reasons = encode(delta.finish_reason), encode(delta.stop_reason)
        choice = b'{"index":%d,"delta":{%b}%b%b,"finish_reason":%b,"stop_reason":%b}' % (
            index,
            said,
            logprobs,
            more,
            *reasons,
        )
        return event(start, choice, None if self._usage else self._head.fingerprint, shown)


class ChatWhole:
    """Gathers the deltas of an answer that is sent at once."""

    def __init__(self, head: AnswerHead, vocabulary: Vocabulary) -> None:
        self._head = head
        self._vocabulary = vocabulary
        self._texts: list[list[str]] = [[] for _ in range(head.n)]
        self._tokens: list[list[int]] = [[] for _ in range(head.n)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(head.n)]
        self._ends: list[Delta | None] = [None] * head.n

    def add(self, delta: Delta) -> None:
        self._texts[delta.index].append(delta.text)
        self._tokens[delta.index] += delta.tokens
        self._logprobs[delta.index] += delta.logprobs
        if delta.finish_reason is not None:
            self._ends[delta.index] = delta

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
        if head.prompt_token_ids is not None:
            document["prompt_token_ids"] = head.prompt_token_ids
        return encode(document)

    def _choice(self, index: int) -> dict[str, Any]:
        end = self._ends[index]
        assert end is not None, "an answer is written when every choice has finished"
        head = self._head
        shown = {
            "index": index,
            "message": {"role": head.role, "content": head.echo + "".join(self._texts[index])},
            "logprobs": None,
            "finish_reason": end.finish_reason,
            "stop_reason": end.stop_reason,
        }
        if head.num_logprobs is not None:
            shown["logprobs"] = chat_logprobs(self._logprobs[index], head, self._vocabulary)
        if head.prompt_token_ids is not None:
            shown["token_ids"] = self._tokens[index]
        return shown


def chat_logprobs(entries: Sequence[TokenLogprob], head: AnswerHead, vocabulary: Vocabulary) -> dict[str, Any]:
    """OpenAI's shape: one entry per token, the most likely alternatives first."""

    def shown(token: int, logprob: float) -> dict[str, Any]:
        # a special token has no bytes in the text, so that all bytes joined are the text
        data = vocabulary.shown_bytes[token] if token < vocabulary.num_tokens else b""
        name = f"token_id:{token}" if head.names_ids else vocabulary.text(token)
        return {"token": name, "logprob": max(logprob, LOWEST), "bytes": list(data)}

    return {
        "content": [
            {
                **shown(entry.token, entry.logprob),
                "top_logprobs": [shown(*pair) for pair in entry.top[: head.num_logprobs]],
            }
            for entry in entries
        ]
    }
