"""How a chat answer looks on the wire: as events, or whole. Both are written from the same deltas."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.types import TokenLogprob
from serve_app.choice import Delta
from serve_app.reply import Usage
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
    """Writes server-sent events. Their constant parts are made once: an event is written for every token.

    data: {"id":...,"choices":[{"index":0,"delta":{"content":"text"},"logprobs":null,"finish_reason":null}]}
    ^ start                        ^ choice_starts                    ^ ...
    """

    def __init__(self, head: AnswerHead, vocabulary: Vocabulary, *, usage: bool, continuous_usage: bool) -> None:
        fixed = {"id": head.id, "object": "chat.completion.chunk", "created": head.created, "model": head.model}
        self._start = b"data: " + encode(fixed)[:-1] + b',"choices":['
        self._choice_starts = [self._start + b'{"index":%d,"delta":{' % index for index in range(head.n)]
        self._head = head
        self._vocabulary = vocabulary
        self._usage = usage
        self._continuous = usage and continuous_usage
        self._fingerprint = b',"system_fingerprint":' + encode(head.fingerprint)

    def opening(self, usage: Usage) -> bytes:
        """The role of every choice, before any text."""
        head = self._head
        rest = b'},"logprobs":null,"finish_reason":null}]'
        role = b'"role":%b,"content":""' % encode(head.role) + rest
        ids = b'"prompt_token_ids":%b,' % encode(head.prompt_token_ids) if head.prompt_token_ids is not None else b""
        end = self._usage_so_far(msgspec.structs.replace(usage, completion_tokens=0))
        events = [start.replace(b'"choices"', ids + b'"choices"', 1) + role + end for start in self._choice_starts]
        if head.echo:
            echo = b'"content":' + _json_text(head.echo) + rest + end
            events += [start + echo for start in self._choice_starts]
        return b"".join(events)

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        """The event for one delta, b"" where it says nothing. `usage` is read only where every event carries it."""
        tells_ids = self._head.prompt_token_ids is not None and bool(delta.tokens)
        if not delta.text and not delta.logprobs and not tells_ids and delta.finish_reason is None:
            return b""
        parts = [self._choice_starts[delta.index]]
        if delta.text:
            parts += (b'"content":', _json_text(delta.text))
        parts.append(b"},")
        if delta.logprobs:
            parts += (b'"logprobs":', encode(chat_logprobs(delta.logprobs, self._head, self._vocabulary)), b",")
        else:
            parts.append(b'"logprobs":null,')
        if tells_ids:
            parts.append(b'"token_ids":%b,' % encode(delta.tokens))
        if delta.finish_reason is None:
            parts.append(b'"finish_reason":null}]')
        else:
            reasons = (encode(delta.finish_reason), encode(delta.stop_reason))
            parts.append(b'"finish_reason":%b,"stop_reason":%b}]' % reasons)
            if not self._usage:
                parts.append(self._fingerprint)
        parts.append(self._usage_so_far(usage))
        return b"".join(parts)

    def closing(self, usage: Usage) -> bytes:
        """The usage event, if it was asked for, and the end."""
        done = b"data: [DONE]\n\n"
        if not self._usage:
            return done
        return b'%b]%b,"usage":%b}\n\n%b' % (self._start, self._fingerprint, encode(usage.shown()), done)

    @property
    def wants_usage(self) -> bool:
        """Whether every event carries the usage so far."""
        return self._continuous

    def _usage_so_far(self, usage: Usage | None) -> bytes:
        return b',"usage":%b}\n\n' % encode(usage.shown()) if self._continuous and usage is not None else b"}\n\n"


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


def _json_text(text: str) -> bytes:
    """A JSON string without the characters that line readers other than SSE's take for an end of line."""
    data = encode(text)
    if text.isascii():
        return data
    return (
        data.replace(b"\xc2\x85", rb"\u0085").replace(b"\xe2\x80\xa8", rb"\u2028").replace(b"\xe2\x80\xa9", rb"\u2029")
    )
