"""How a text completion looks on the wire: as events, or whole."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.types import TokenLogprob
from serve_app.chat_form import LOWEST, AnswerHead, told_alternatives
from serve_app.choice import Delta
from serve_app.prompt_logprobs import shown_prompt
from serve_app.reply import Usage
from serve_app.sse import DONE, event, event_head, json_text
from serve_app.vocabulary import Vocabulary

__all__ = ["CompletionEvents", "CompletionWhole"]

encode = msgspec.json.encode
Ids = tuple[int, ...]


class CompletionEvents:
    """Writes server-sent events.

    echoes       what each choice's text begins with
    prompt_ids   told with each choice's first event, as the answer's ids are with all, if not None
    """

    def __init__(
        self,
        head: AnswerHead,
        vocabulary: Vocabulary,
        echoes: Sequence[str],
        prompt_ids: Sequence[Ids] | None,
        *,
        usage: bool,
        continuous_usage: bool,
    ) -> None:
        self._start = event_head(head.id, "text_completion", head.created, head.model)
        self._writers = [_LogprobWriter(head, vocabulary, len(echo)) for echo in echoes]
        self._head = head
        self._echoes = echoes
        self._prompt_ids = prompt_ids
        self._usage = usage
        self._continuous = usage and continuous_usage

    @property
    def wants_usage(self) -> bool:
        return self._continuous

    def opening(self, usage: Usage) -> bytes:
        """The prompts, where they are asked for."""
        nothing = msgspec.structs.replace(usage, completion_tokens=0)
        events = []
        for index, echo in enumerate(self._echoes):
            ids = self._prompt_ids[index] if self._prompt_ids is not None else None
            if echo or ids is not None:
                told = b',"prompt_token_ids":%b' % encode(ids) if ids is not None else b""
                events.append(self._event(index, echo, b"null", b"null", b"null", told, nothing))
        return b"".join(events)

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        tells_ids = self._prompt_ids is not None and bool(delta.tokens)
        if not delta.said.content and not delta.logprobs and not tells_ids and delta.finish_reason is None:
            return b""
        logprobs = encode(self._writers[delta.index].shown(delta.logprobs)) if delta.logprobs else b"null"
        reasons = encode(delta.finish_reason), encode(delta.stop_reason)
        told = b',"token_ids":%b' % encode(delta.tokens) if tells_ids else b""
        return self._event(delta.index, delta.said.content, logprobs, *reasons, told, usage)

    def closing(self, usage: Usage) -> bytes:
        if not self._usage:
            return DONE
        return event(self._start, b"", self._head.fingerprint, usage) + DONE

    def _event(
        self, index: int, text: str, logprobs: bytes, finish: bytes, stop: bytes, told: bytes, usage: Usage | None
    ) -> bytes:
        choice = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b%b}' % (
            index,
            json_text(text),
            logprobs,
            finish,
            stop,
            told,
        )
        return event(self._start, choice, None, usage if self._continuous else None)


class CompletionWhole:
    """Gathers the deltas of an answer that is sent at once."""

    def __init__(
        self, head: AnswerHead, vocabulary: Vocabulary, echoes: Sequence[str], prompt_ids: Sequence[Ids] | None
    ) -> None:
        self._head = head
        self._vocabulary = vocabulary
        self._prompt_ids = prompt_ids
        self._writers = [_LogprobWriter(head, vocabulary, len(echo)) for echo in echoes]
        self._texts = [[echo] for echo in echoes]
        self._deltas: list[list[Delta]] = [[] for _ in echoes]

    def add(self, delta: Delta) -> None:
        self._texts[delta.index].append(delta.said.content)
        self._deltas[delta.index].append(delta)

    def body(self, usage: Usage) -> bytes:
        head = self._head
        document = {
            "id": head.id,
            "object": "text_completion",
            "created": head.created,
            "model": head.model,
            "choices": [self._choice(index) for index in range(len(self._texts))],
            "usage": usage.shown(),
            "system_fingerprint": head.fingerprint,
        }
        return encode(document)

    def _choice(self, index: int) -> dict[str, Any]:
        deltas = self._deltas[index]
        logprobs = [entry for delta in deltas for entry in delta.logprobs]
        shown: dict[str, Any] = {
            "index": index,
            "text": "".join(self._texts[index]),
            "logprobs": self._writers[index].shown(logprobs) if self._head.num_logprobs is not None else None,
            "finish_reason": deltas[-1].finish_reason,
            "stop_reason": deltas[-1].stop_reason,
        }
        for delta in deltas:
            if delta.prompt_logprobs is not None:
                shown["prompt_logprobs"] = shown_prompt(delta.prompt_logprobs, self._vocabulary)
        if self._prompt_ids is not None:
            shown["prompt_token_ids"] = self._prompt_ids[index]
            shown["token_ids"] = [token for delta in deltas for token in delta.tokens]
        return shown


class _LogprobWriter:
    """The old shape: parallel lists. Offsets run on from piece to piece of one choice."""

    def __init__(self, head: AnswerHead, vocabulary: Vocabulary, offset: int) -> None:
        self._head = head
        self._vocabulary = vocabulary
        self._offset = offset  # characters before the next token

    def shown(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._vocabulary.text(entry.token))
        num_top = self._head.num_logprobs or 0
        return {
            "text_offset": offsets,
            "tokens": [self._name(entry.token) for entry in entries],
            "token_logprobs": [max(entry.logprob, LOWEST) for entry in entries],
            "top_logprobs": [
                {self._name(token): max(logprob, LOWEST) for token, logprob in told_alternatives(entry, num_top)}
                for entry in entries
            ],
        }

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._head.names_ids else self._vocabulary.text(token)
