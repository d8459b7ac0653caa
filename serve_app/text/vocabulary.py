"""Vocabulary: the bytes of each token id, for the detokenizer and the `bytes` of logprobs."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from tokenizers import Tokenizer

from engine.errors import ModelError

__all__ = ["Vocabulary", "read_vocabulary"]


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    all_bytes: tuple[bytes, ...]  # by token id; b"" for an id without a token
    shown_bytes: tuple[bytes, ...]  # the same, with b"" for special tokens
    special_ids: frozenset[int]
    longest_bytes: int  # of the longest token
    strips_space: bool  # the tokenizer adds a space before a text (sentencepiece)

    @property
    def num_tokens(self) -> int:
        return len(self.all_bytes)

    def showing(self, texts: Iterable[str]) -> "Vocabulary":
        """The same vocabulary, with special tokens shown that are part of one of the texts."""
        texts = tuple(texts)
        parts = {token for token in self.special_ids if any(self.text(token) in text for text in texts)}
        shown = list(self.shown_bytes)
        for token in parts:
            shown[token] = self.all_bytes[token]
        return msgspec.structs.replace(self, shown_bytes=tuple(shown))

    def text(self, token: int) -> str:
        """The text of one token alone, with U+FFFD for invalid UTF-8."""
        return self.bytes_of(token).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token; b"" for an id without a token."""
        return self.all_bytes[token] if 0 <= token < len(self.all_bytes) else b""


def read_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Raises ModelError for a tokenizer whose decoder is not byte-based (WordPiece and others)."""
    steps = _decoder_steps(tokenizer)
    to_bytes = _byte_level() if any(step["type"] == "ByteLevel" for step in steps) else _sentencepiece(steps)
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    table = [b""] * (max(pieces.values(), default=-1) + 1)
    for piece, token in pieces.items():
        table[token] = to_bytes(piece)
    special = frozenset(token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special)
    return Vocabulary(
        all_bytes=tuple(table),
        shown_bytes=tuple(b"" if token in special else data for token, data in enumerate(table)),
        special_ids=special,
        longest_bytes=max(map(len, table), default=1) or 1,
        strips_space=any(_strips_space(step) for step in steps),
    )


def _decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    known = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    state = tokenizer.decoder.__getstate__() if tokenizer.decoder else '{"type": "none"}'
    decoder: dict[str, Any] = json.loads(state)
    steps: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    for kind in (step["type"] for step in steps):
        if kind not in known:
            raise ModelError(f"the tokenizer's decoder {kind!r} is not known; known are {', '.join(sorted(known))}")
    return steps


def _byte_level() -> Callable[[str], bytes]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}

    def to_bytes(piece: str) -> bytes:
        try:
            return bytes([alphabet[char] for char in piece])
        except KeyError:  # an added token, written as plain text
            return piece.encode()

    return to_bytes


def _sentencepiece(steps: list[dict[str, Any]]) -> Callable[[str], bytes]:
    has_bytes = any(step["type"] == "ByteFallback" for step in steps)
    swaps = [(step["pattern"]["String"], step["content"]) for step in steps if step["type"] == "Replace"]
    swaps += [(step["replacement"], " ") for step in steps if step["type"] == "Metaspace"]

    def to_bytes(piece: str) -> bytes:
        if has_bytes and (byte := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece)):
            return bytes([int(byte[1], 16)])
        for old, new in swaps:
            piece = piece.replace(old, new)
        return piece.encode()

    return to_bytes


def _strips_space(step: dict[str, Any]) -> bool:
    if step["type"] == "Strip":
        return bool(step["content"] == " " and step["start"] > 0)
    return bool(step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
