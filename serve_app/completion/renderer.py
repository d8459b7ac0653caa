"""Renderer of /v1/completions: deltas to server-sent events, or to one document."""

import codecs
from collections.abc import Sequence

import msgspec

from engine.types import PromptLogprob, TokenLogprob
from serve_app.api.responses import Completion, CompletionChoice, CompletionLogprobs
from serve_app.completion.adapter import PreparedCompletion
from serve_app.completion.echo import Echo
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage
from serve_app.openai.events import EventWriter, usage_info
from serve_app.openai.logprobs import LOWEST, prompt_logprobs, top_alternatives
from serve_app.pipeline.renderer import ResponseMetadata
from serve_app.text.vocabulary import Vocabulary
from serve_app.transport.errors import Fault
from serve_app.transport.sse import KEEP_ALIVE, json_text

__all__ = ["CompletionRenderer"]

encode = msgspec.json.encode
Ids = tuple[int, ...]


class CompletionRenderer:
    id_prefix = "cmpl-"
    keep_alive = KEEP_ALIVE

    def stream(
        self, answer: PreparedCompletion, metadata: ResponseMetadata, vocabulary: Vocabulary
    ) -> "_CompletionStream":
        return _CompletionStream(answer, metadata, vocabulary)

    def document(
        self, answer: PreparedCompletion, metadata: ResponseMetadata, vocabulary: Vocabulary
    ) -> "_CompletionDocument":
        return _CompletionDocument(answer, metadata, vocabulary)


class _CompletionStream:
    """The StreamRenderer of completions.

    An echo with logprobs waits for the first choice of its prompt, the only one whose outputs have them; deltas of the
    prompt's other choices wait with it. A prompt's ids are in each choice's first event, the answer's in every one.
    """

    def __init__(self, answer: PreparedCompletion, metadata: ResponseMetadata, vocabulary: Vocabulary) -> None:
        self._writer = EventWriter("text_completion", metadata, answer.delivery)
        self._logprobs = [_LogprobWriter(answer, vocabulary, len(echo.text)) for echo in answer.echoes]
        self._answer = answer
        self._nothing: Usage | None = None  # before the answer
        # deltas that wait for prompt logprobs, by the first choice of each prompt
        firsts = [index for index, echo in enumerate(answer.echoes) if echo.tokens and index % answer.num_choices == 0]
        self._held: dict[int, list[tuple[ChoiceDelta, Usage | None]]] = {first: [] for first in firsts}
        self._prompt_ids = _prompt_ids(answer)
        self._begun: set[int] = set()  # choices that have had an event

    @property
    def wants_usage(self) -> bool:
        return self._writer.wants_usage

    def opening(self, usage: Usage) -> bytes:
        """The echoes that need no logprobs."""
        self._nothing = msgspec.structs.replace(usage, completion_tokens=0)
        echoes = enumerate(self._answer.echoes)
        return b"".join(self._echo(index, b"null") for index, echo in echoes if not echo.tokens)

    def delta(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        first = delta.index - delta.index % self._answer.num_choices
        if first not in self._held:
            return self._written(delta, usage)
        self._held[first].append((delta, usage))
        if delta.prompt_logprobs is None:
            return b""
        return self._released(first, delta.prompt_logprobs)

    def closing(self, usage: Usage) -> bytes:
        rest = b"".join(
            self._released(first, ()) for first in list(self._held)
        )  # aborted before the prompt logprobs came
        return rest + self._writer.closing(usage)

    def fault(self, fault: Fault) -> bytes:
        return self._writer.fault(fault)

    def _released(self, first: int, scores: Sequence[PromptLogprob]) -> bytes:
        """The echoes of a prompt, and the deltas that waited for them."""
        events = []
        for index in range(first, first + self._answer.num_choices):
            logprobs = encode(self._logprobs[index].echoed(self._answer.echoes[index], scores))
            events.append(self._echo(index, logprobs))
        return b"".join([*events, *(self._written(*held) for held in self._held.pop(first))])

    def _echo(self, index: int, logprobs: bytes) -> bytes:
        echo = self._answer.echoes[index]
        if not echo.text and not echo.tokens:
            return b""
        choice = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":null,"stop_reason":null%b}' % (
            index,
            json_text(echo.text),
            logprobs,
            self._ids(index, ()),
        )
        return self._writer.event(choice, self._nothing)

    def _written(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        text = delta.message.content
        sends_ids = self._prompt_ids is not None and bool(delta.tokens)
        if not text and not delta.logprobs and not sends_ids and delta.finish_reason is None:
            return b""
        logprobs = encode(self._logprobs[delta.index].shape(delta.logprobs)) if delta.logprobs else b"null"
        choice = b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b%b}' % (
            delta.index,
            json_text(text),
            logprobs,
            encode(delta.finish_reason),
            encode(delta.stop_reason),
            self._ids(delta.index, delta.tokens),
        )
        return self._writer.event(choice, usage)

    def _ids(self, index: int, tokens: Ids) -> bytes:
        if self._prompt_ids is None:
            return b""
        answer = b',"token_ids":' + encode(tokens)
        if index in self._begun:
            return answer
        self._begun.add(index)
        return b',"prompt_token_ids":' + encode(self._prompt_ids[index]) + answer


class _CompletionDocument:
    """The DocumentRenderer of completions."""

    def __init__(self, answer: PreparedCompletion, metadata: ResponseMetadata, vocabulary: Vocabulary) -> None:
        self._answer = answer
        self._metadata = metadata
        self._vocabulary = vocabulary
        self._prompt_ids = _prompt_ids(answer)
        self._writers = [_LogprobWriter(answer, vocabulary, len(echo.text)) for echo in answer.echoes]
        self._scores: dict[int, Sequence[PromptLogprob]] = {}  # of the prompts, by the first choice of each
        self._texts = [[echo.text] for echo in answer.echoes]
        self._deltas: list[list[ChoiceDelta]] = [[] for _ in answer.echoes]

    def add(self, delta: ChoiceDelta) -> None:
        self._texts[delta.index].append(delta.message.content)
        self._deltas[delta.index].append(delta)
        if delta.prompt_logprobs is not None:
            self._scores[delta.index] = delta.prompt_logprobs

    def body(self, usage: Usage) -> bytes:
        metadata = self._metadata
        document: Completion = {
            "id": metadata.id,
            "object": "text_completion",
            "created": metadata.created,
            "model": metadata.model,
            "choices": [self._choice(index) for index in range(len(self._texts))],
            "usage": usage_info(usage),
            "service_tier": None,
            "system_fingerprint": metadata.fingerprint,
            "kv_transfer_params": None,
        }
        return encode(document)

    def _choice(self, index: int) -> CompletionChoice:
        deltas, answer = self._deltas[index], self._answer
        choice: CompletionChoice = {
            "index": index,
            "text": "".join(self._texts[index]),
            "logprobs": self._logprobs(index) if answer.num_logprobs is not None else None,
            "finish_reason": deltas[-1].finish_reason,
            "stop_reason": deltas[-1].stop_reason,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "token_ids": None,
        }
        if answer.num_prompt_logprobs is not None and index in self._scores:
            num_top = answer.num_prompt_logprobs if answer.num_prompt_logprobs >= 0 else None
            choice["prompt_logprobs"] = prompt_logprobs(self._scores[index], self._vocabulary, num_top)
        if self._prompt_ids is not None:
            choice["prompt_token_ids"] = list(self._prompt_ids[index])
            choice["token_ids"] = [token for delta in deltas for token in delta.tokens]
        return choice

    def _logprobs(self, index: int) -> CompletionLogprobs:
        writer, echo = self._writers[index], self._answer.echoes[index]
        answer = writer.shape([entry for delta in self._deltas[index] for entry in delta.logprobs])
        if not echo.tokens:
            return answer
        prompt = writer.echoed(echo, self._scores.get(index - index % self._answer.num_choices, ()))
        return {
            "text_offset": prompt["text_offset"] + answer["text_offset"],
            "tokens": prompt["tokens"] + answer["tokens"],
            "token_logprobs": prompt["token_logprobs"] + answer["token_logprobs"],
            "top_logprobs": prompt["top_logprobs"] + answer["top_logprobs"],
        }


class _LogprobWriter:
    """Writes logprobs as parallel lists, the older shape. Text offsets continue from delta to delta of a choice."""

    def __init__(self, answer: PreparedCompletion, vocabulary: Vocabulary, offset: int) -> None:
        self._num_top = answer.num_logprobs or 0
        self._shows_special = answer.shows_special
        self._names_ids = answer.delivery.tokens_as_ids
        self._vocabulary = vocabulary
        self._offset = offset  # characters before the next token
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a token may be a part of a character

    def shape(self, entries: Sequence[TokenLogprob]) -> CompletionLogprobs:
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._text_bytes(entry.token)))
        return {
            "text_offset": offsets,
            "tokens": [self._name(entry.token) for entry in entries],
            "token_logprobs": [max(entry.logprob, LOWEST) for entry in entries],
            "top_logprobs": [self._top(entry, top_alternatives(entry, self._num_top)) for entry in entries],
        }

    def echoed(self, echo: Echo, scores: Sequence[PromptLogprob]) -> CompletionLogprobs:
        """The same for a prompt, whose first token has no logprob; without `scores` none has."""
        unknown = [None] * (len(echo.tokens) - len(scores))
        return {
            "text_offset": list(echo.offsets),
            "tokens": [self._name(token) for token in echo.tokens],
            "token_logprobs": [*unknown, *(max(entry.logprob, LOWEST) for entry in scores)],
            "top_logprobs": [*unknown, *(self._top(entry, entry.top[: self._num_top]) for entry in scores)],
        }

    def _text_bytes(self, token: int) -> bytes:
        """The bytes that the token adds to the text."""
        is_hidden = token in self._vocabulary.special_ids and not self._shows_special
        return b"" if is_hidden else self._vocabulary.bytes_of(token)

    def _top(self, entry: TokenLogprob | PromptLogprob, others: Sequence[tuple[int, float]]) -> dict[str, float]:
        """The token itself comes first, also if it is not among the most likely ones."""
        named = {self._name(token): max(logprob, LOWEST) for token, logprob in others}
        return {self._name(entry.token): max(entry.logprob, LOWEST), **named}

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._names_ids else self._vocabulary.text(token)


def _prompt_ids(answer: PreparedCompletion) -> list[Ids] | None:
    """The token ids of each choice's prompt, if the client wants them."""
    if not answer.delivery.token_ids:
        return None
    return [part.request.prompt for part in answer.parts for _ in range(answer.num_choices)]
