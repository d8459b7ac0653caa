"""What a worker does with a grammar. See serve_app/workers: its cost is the client's choice."""

import msgspec
from tokenizers import Tokenizer

from engine.form.grammar import GrammarError, TokenTable, Vocabulary

__all__ = ["Checked", "GrammarToCheck", "TableSource", "check", "load_table"]


class TableSource(msgspec.Struct, frozen=True, array_like=True):
    """What a TokenTable is made of."""

    tokens: tuple[bytes, ...]  # by token id
    special_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    vocab_size: int
    tokenizer: str  # as JSON


class GrammarToCheck(msgspec.Struct, frozen=True, array_like=True):
    text: str
    must_fit: bool


class Checked(msgspec.Struct, frozen=True, array_like=True):
    plan: tuple[int, ...] = ()  # a short end of a grammar that must fit
    fault: str = ""  # why the grammar cannot be followed
    cannot_fit: str = ""  # why no short end is known


def load_table(data: bytes) -> TokenTable:
    source = msgspec.msgpack.decode(data, type=TableSource)
    tokenizer = Tokenizer.from_str(source.tokenizer)

    def encode(text: bytes) -> list[int]:
        return list(tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False).ids)

    return TokenTable(Vocabulary(source.tokens, source.special_ids, source.end_ids), source.vocab_size, encode)


def check(table: TokenTable, data: bytes) -> bytes:
    """A GrammarToCheck to a Checked."""
    grammar = msgspec.msgpack.decode(data, type=GrammarToCheck)
    return msgspec.msgpack.encode(_checked(table, grammar))


def _checked(table: TokenTable, grammar: GrammarToCheck) -> Checked:
    try:
        table.check(grammar.text)
    except GrammarError as error:
        return Checked(fault=str(error))
    if not grammar.must_fit:
        return Checked()
    try:
        return Checked(plan=table.short_end(grammar.text))
    except GrammarError as error:
        return Checked(cannot_fit=str(error))
