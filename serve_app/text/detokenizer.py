"""Incremental detokenizer: token ids to text; the joined pieces are the text of all tokens together."""

import codecs
from collections.abc import Iterable

from serve_app.text.vocabulary import Vocabulary

__all__ = ["IncrementalDetokenizer"]


class IncrementalDetokenizer:
    """The text of one choice.

    A codepoint whose bytes lie in several tokens is returned with the last of them. Invalid UTF-8 becomes U+FFFD, as in
    `bytes.decode("utf-8", "replace")` of the whole.

    skip_special   leave out special tokens
    starts_text    the first token begins a text: a sentencepiece tokenizer's first space is dropped. False if the
                   answer continues the prompt's last line.
    """

    __slots__ = ("_decode", "_strip", "_table")

    def __init__(self, vocabulary: Vocabulary, *, skip_special: bool = True, starts_text: bool = True) -> None:
        self._table = vocabulary.shown_bytes if skip_special else vocabulary.all_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._strip = starts_text and vocabulary.strips_space

    def push(self, tokens: Iterable[int]) -> str:
        table = self._table
        num_tokens = len(table)  # a model may have more logits than its tokenizer has tokens
        text = self._decode(b"".join([table[token] for token in tokens if token < num_tokens]))
        return self._stripped(text) if self._strip else text

    def flush(self) -> str:
        """The rest of an incomplete codepoint. No push may follow."""
        return self._decode(b"", True)

    def _stripped(self, text: str) -> str:
        if text:
            self._strip = False
        return text.removeprefix(" ")
