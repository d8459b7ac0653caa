"""How a text completion looks on the wire: as events, or whole."""

import codecs
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.types import PromptLogprob, TokenLogprob
from serve_app.completion.echo import Echo
from serve_app.generation.choice import Delta
from serve_app.generation.logprobs import LOWEST, shown_prompt, told_alternatives
from serve_app.generation.reply import Usage
from serve_app.http.answer_head import AnswerHead
from serve_app.http.sse import DONE, event, event_head, json_text
from serve_app.text.vocabulary import Vocabulary

__all__ = ["CompletionEvents", "CompletionWhole"]

encode = msgspec.json.encode
Ids = tuple[int, ...]


class CompletionEvents:
    """Writes server-sent events.

    echoes       what each choice's text begins with. With log probabilities it waits for the first choice of its
                 prompt, which alone brings them, and so does what the others have to say
    prompt_ids   told with each choice's first event, as the answer's ids are with every one, if not None
    """

    def __init__(
        self,
        head: AnswerHead,
        vocabulary: Vocabulary,
        echoes: Sequence[Echo],
        prompt_ids: Sequence[Ids] | None,
        *,
        usage: bool,
        continuous_usage: bool,
    ) -> None:
        self._start = event_head(head.id, "text_completion", head.created, head.model)
        self._writers = [_LogprobWriter(head, vocabulary, len(echo.text)) for echo in echoes]
        self._head = head
        self._echoes = echoes
        self._nothing: Usage | None = None  # before the answer
        # what waits for log probabilities of the prompt, by the first choice of each
        firsts = [index for index, echo in enumerate(echoes) if echo.tokens and index % head.n == 0]
        self._held: dict[int, list[tuple[Delta, Usage | None]]] = {first: [] for first in firsts}
        self._prompt_ids = prompt_ids
        self._begun: set[int] = set()  # choices that have had an event
        self._usage = usage
        self._continuous = usage and continuous_usage

    @property
    def wants_usage(self) -> bool:
        return self._continuous

    def opening(self, usage: Usage) -> bytes:
        """The prompts, where they are asked for and known."""
        self._nothing = msgspec.structs.replace(usage, completion_tokens=0)
        return b"".join(self._echo(index, b"null") for index, echo in enumerate(self._echoes) if not echo.tokens)

    def delta(self, delta: Delta, usage: Usage | None) -> bytes:
        first = delta.index - delta.index % self._head.n
        if first not in self._held:
            return self._written(delta, usage)
        self._held[first].append((delta, usage))
        if delta.prompt_logprobs is None:
            return b""
        return self._released(first, delta.prompt_logprobs)

    def _released(self, first: int, scores: Sequence[PromptLogprob]) -> bytes:
        """A prompt's echoes, and what its choices have had to say."""
        events = []
        for index in range(first, first + self._head.n):
            events.append(self._echo(index, encode(self._writers[index].echoed(self._echoes[index], scores))))
        return b"".join([*events, *(self._written(*held) for held in self._held.pop(first))])

    def _echo(self, index: int, logprobs: bytes) -> bytes:
        echo = self._echoes[index]
        if not echo.text and not echo.tokens:
            return b""
        return self._event(index, echo.text, logprobs, b"null", b"null", (), self._nothing)

    def _written(self, delta: Delta, usage: Usage | None) -> bytes:
        tells_ids = self._prompt_ids is not None and bool(delta.tokens)
        if not delta.said.content and not delta.logprobs and not tells_ids and delta.finish_reason is None:
            return b""
        logprobs = encode(self._writers[delta.index].shown(delta.logprobs)) if delta.logprobs else b"null"
        reasons = encode(delta.finish_reason), encode(delta.stop_reason)
        return self._event(delta.index, delta.said.content, logprobs, *reasons, delta.tokens, usage)

    def closing(self, usage: Usage) -> bytes:
        rest = b"".join(self._released(first, ()) for first in list(self._held))  # an abort came first
        if not self._usage:
            return rest + DONE
        return rest + event(self._start, b"", self._head.fingerprint, usage) + DONE

    def _event(
        self, index: int, text: str, logprobs: bytes, finish: bytes, stop: bytes, tokens: Ids, usage: Usage | None
    ) -> bytes:
        choice = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b%b}' % (
            index,
            json_text(text),
            logprobs,
            finish,
            stop,
            self._ids(index, tokens),
        )
        return event(self._start, choice, None, usage if self._continuous else None)

    def _ids(self, index: int, tokens: Ids) -> bytes:
        if self._prompt_ids is None:
            return b""
        told = b',"token_ids":' + encode(tokens)
        if index in self._begun:
            return told
        self._begun.add(index)
        return b',"prompt_token_ids":' + encode(self._prompt_ids[index]) + told


class CompletionWhole:
    """Gathers the deltas of an answer that is sent at once."""

    def __init__(
        self, head: AnswerHead, vocabulary: Vocabulary, echoes: Sequence[Echo], prompt_ids: Sequence[Ids] | None
    ) -> None:
        self._head = head
        self._vocabulary = vocabulary
        self._prompt_ids = prompt_ids
        self._writers = [_LogprobWriter(head, vocabulary, len(echo.text)) for echo in echoes]
        self._echoes = echoes
        self._scores: dict[int, Sequence[PromptLogprob]] = {}  # of the prompts, by the first choice of each
        self._texts = [[echo.text] for echo in echoes]
        self._deltas: list[list[Delta]] = [[] for _ in echoes]

    def add(self, delta: Delta) -> None:
        self._texts[delta.index].append(delta.said.content)
        self._deltas[delta.index].append(delta)
        if delta.prompt_logprobs is not None:
            self._scores[delta.index] = delta.prompt_logprobs

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
        deltas, head = self._deltas[index], self._head
        shown: dict[str, Any] = {
            "index": index,
            "text": "".join(self._texts[index]),
            "logprobs": self._logprobs(index) if head.num_logprobs is not None else None,
            "finish_reason": deltas[-1].finish_reason,
            "stop_reason": deltas[-1].stop_reason,
        }
        if head.num_prompt_logprobs is not None and index in self._scores:
            num_top = head.num_prompt_logprobs if head.num_prompt_logprobs >= 0 else None
            shown["prompt_logprobs"] = shown_prompt(self._scores[index], self._vocabulary, num_top)
        if self._prompt_ids is not None:
            shown["prompt_token_ids"] = self._prompt_ids[index]
            shown["token_ids"] = [token for delta in deltas for token in delta.tokens]
        return shown

    def _logprobs(self, index: int) -> dict[str, Any]:
        writer, echo = self._writers[index], self._echoes[index]
        answer = writer.shown([entry for delta in self._deltas[index] for entry in delta.logprobs])
        if not echo.tokens:
            return answer
        prompt = writer.echoed(echo, self._scores.get(index - index % self._head.n, ()))
        return {key: prompt[key] + answer[key] for key in answer}


class _LogprobWriter:
    """The old shape: parallel lists. Offsets run on from piece to piece of one choice."""

    def __init__(self, head: AnswerHead, vocabulary: Vocabulary, offset: int) -> None:
        self._head = head
        self._vocabulary = vocabulary
        self._offset = offset  # characters before the next token
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may be a part of a character

    def shown(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets, num_top = [], self._head.num_logprobs or 0
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._said(entry.token)))
        return {
            "text_offset": offsets,
            "tokens": [self._name(entry.token) for entry in entries],
            "token_logprobs": [max(entry.logprob, LOWEST) for entry in entries],
            "top_logprobs": [self._top(entry, told_alternatives(entry, num_top)) for entry in entries],
        }

    def echoed(self, echo: Echo, scores: Sequence[PromptLogprob]) -> dict[str, Any]:
        """The same for a prompt, whose first token has no log probability. None has one where they were not told."""
        num_top = self._head.num_logprobs or 0
        unknown = [None] * (len(echo.tokens) - len(scores))
        return {
            "text_offset": list(echo.offsets),
            "tokens": [self._name(token) for token in echo.tokens],
            "token_logprobs": [*unknown, *(max(entry.logprob, LOWEST) for entry in scores)],
            "top_logprobs": [*unknown, *(self._top(entry, entry.top[:num_top]) for entry in scores)],
        }

    def _said(self, token: int) -> bytes:
        """What the token adds to the text."""
        is_hidden = token in self._vocabulary.special_ids and not self._head.shows_special
        return b"" if is_hidden else self._vocabulary.bytes_of(token)

    def _top(self, entry: TokenLogprob | PromptLogprob, others: Sequence[tuple[int, float]]) -> dict[str, float]:
        """The token that is there stands first, also where it is none of the most likely ones."""
        told = {self._name(token): max(logprob, LOWEST) for token, logprob in others}
        return {self._name(entry.token): max(entry.logprob, LOWEST), **told}

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._head.names_ids else self._vocabulary.text(token)
