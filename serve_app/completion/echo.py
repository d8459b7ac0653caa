"""What a completion begins with where the client wants its prompt back: the text, and where each token stands in it."""

import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from itertools import takewhile
from typing import cast

import msgspec

from engine.types import EngineClient
from serve_app.generation.choice import Delta
from serve_app.generation.reply import Usage
from serve_app.http.answer import Run
from serve_app.model.text_model import TextModel
from serve_app.text.said import Said

__all__ = ["NO_ECHO", "Echo", "EchoAlone", "echo_of"]

Ids = tuple[int, ...]


class Echo(msgspec.Struct, frozen=True):
    """`tokens` and `offsets` are empty where log probabilities are not wanted."""

    text: str
    tokens: Ids = ()
    offsets: Ids = ()  # characters of the text before each token


NO_ECHO = Echo("")


def echo_of(prompt: str | list[int], tokens: Ids, model: TextModel, *, scored: bool) -> Echo:
    """`tokens` are those of the prompt that are used; all their log probabilities are told if `scored`."""
    text = prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt, skip_special_tokens=False)
    if not scored:
        return Echo(text)
    hidden = _added(prompt, tokens, model) if isinstance(prompt, str) else frozenset()
    said, offsets = _placed(tokens, hidden, model)
    return Echo(said, tokens, offsets)


def _added(prompt: str, tokens: Ids, model: TextModel) -> frozenset[int]:
    """The places of special tokens that stand around the text, not in it."""
    special = model.vocabulary.special_ids

    def first_specials(ids: Iterable[int]) -> int:
        return sum(1 for _ in takewhile(special.__contains__, ids))

    written = model.encode(prompt)
    before = first_specials(tokens) - first_specials(written)
    after = first_specials(reversed(tokens)) - first_specials(reversed(written))
    return frozenset([*range(before), *range(len(tokens) - max(0, after), len(tokens))])


def _placed(tokens: Ids, hidden: frozenset[int], model: TextModel) -> tuple[str, Ids]:
    """The tokens' text, and how many characters of it come before each: a token may be a part of a character."""
    words, decoder = model.vocabulary, codecs.getincrementaldecoder("utf-8")("replace")
    text, offsets = "", []
    for place, token in enumerate(tokens):
        offsets.append(len(text))
        said = decoder.decode(b"" if place in hidden else words.all_bytes[token])
        text += said[1:] if not text and words.strips_space and said[:1] == " " else said
    return text + decoder.decode(b"", final=True), tuple(offsets)


class EchoAlone:
    """A run of which only the prompts are told: the one token that the engine makes is left out."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def deltas(self, client: EngineClient) -> AsyncIterator[Delta]:
        async with aclosing(cast("AsyncGenerator[Delta]", self._run.deltas(client))) as deltas:
            async for delta in deltas:
                reason = "length" if delta.finish_reason not in (None, "abort") else delta.finish_reason
                yield msgspec.structs.replace(
                    delta, said=Said(), tokens=(), logprobs=(), finish_reason=reason, stop_reason=None
                )

    def usage(self) -> Usage:
        return msgspec.structs.replace(self._run.usage(), completion_tokens=0)

    def usage_of(self, index: int) -> Usage:
        return msgspec.structs.replace(self._run.usage_of(index), completion_tokens=0)
