"""Echo of a completion: the prompt in front of the answer, and the text offset of each of its tokens."""

import codecs
from collections.abc import Iterable
from itertools import takewhile

import msgspec

from serve_app.model.text_model import TextModel

__all__ = ["NO_ECHO", "Echo", "echo_of"]

Ids = tuple[int, ...]


class Echo(msgspec.Struct, frozen=True):
    """`tokens` and `offsets` are empty without logprobs."""

    text: str
    tokens: Ids = ()
    offsets: Ids = ()  # characters of the text before each token


NO_ECHO = Echo("")


def echo_of(prompt: str | tuple[int, ...], tokens: Ids, model: TextModel, *, scored: bool) -> Echo:
    """`tokens`: the prompt's after truncation; `scored`: all of them have logprobs."""
    text = prompt if isinstance(prompt, str) else model.tokenizer.decode(list(prompt), skip_special_tokens=False)
    if not scored:
        return Echo(text)
    hidden = _added(prompt, tokens, model) if isinstance(prompt, str) else frozenset()
    text, offsets = _text_and_offsets(tokens, hidden, model)
    return Echo(text, tokens, offsets)


def _added(prompt: str, tokens: Ids, model: TextModel) -> frozenset[int]:
    """The positions of special tokens that the tokenizer has added around the text."""
    special = model.vocabulary.special_ids

    def first_specials(ids: Iterable[int]) -> int:
        return sum(1 for _ in takewhile(special.__contains__, ids))

    written = model.encode(prompt)
    before = first_specials(tokens) - first_specials(written)
    after = first_specials(reversed(tokens)) - first_specials(reversed(written))
    return frozenset([*range(before), *range(len(tokens) - max(0, after), len(tokens))])


def _text_and_offsets(tokens: Ids, hidden: frozenset[int], model: TextModel) -> tuple[str, Ids]:
    """The tokens' text, and the number of characters before each token, which may be part of a character."""
    words, decoder = model.vocabulary, codecs.getincrementaldecoder("utf-8")("replace")
    text, offsets = "", []
    for position, token in enumerate(tokens):
        offsets.append(len(text))
        piece = decoder.decode(b"" if position in hidden else words.all_bytes[token])
        text += piece[1:] if not text and words.strips_space and piece[:1] == " " else piece
    return text + decoder.decode(b"", final=True), tuple(offsets)
