"""Compiles grammars in a worker process, since the client chooses the cost (serve_app/workers)."""

from itertools import islice

import msgspec
from tokenizers import Tokenizer

from engine.structured_output.grammar import GrammarError, TokenTable, Vocabulary
from serve_app.grammar.json_grammar import pieces_of
from serve_app.workers import values

__all__ = ["Checked", "FoundFault", "GrammarToCheck", "TableSource", "check", "find_fault", "load_table"]

MAX_PIECES = 200  # of a schema that are compiled one by one, to locate the error


class TableSource(msgspec.Struct, frozen=True, array_like=True):
    """The arguments of a TokenTable."""

    tokens: tuple[bytes, ...]  # by token id
    special_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    vocab_size: int
    tokenizer: str  # of text that follows other text, as JSON


class GrammarToCheck(msgspec.Struct, frozen=True, array_like=True):
    text: str
    must_fit: bool


class Checked(msgspec.Struct, frozen=True, array_like=True):
    plan: tuple[int, ...] = ()  # a short completion of a grammar with `fit`
    fault: str = ""  # the grammar's error
    cannot_fit: str = ""  # why no short completion was found


class FoundFault(msgspec.Struct, frozen=True, array_like=True):
    """The unsupported place of a schema."""

    field: str  # of the request, with the path into its schema
    place: str
    keyword: str
    fault: str


def load_table(data: bytes) -> TokenTable:
    source = msgspec.msgpack.decode(data, type=TableSource)
    tokenizer = Tokenizer.from_str(source.tokenizer)

    def encode(text: bytes) -> list[int]:
        return list(tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False).ids)

    return TokenTable(Vocabulary(source.tokens, source.special_ids, source.end_ids), source.vocab_size, encode)


def check(table: TokenTable, data: bytes) -> bytes:
    """From a GrammarToCheck to a Checked."""
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
        return Checked(plan=table.short_completion(grammar.text))
    except GrammarError as error:
        return Checked(cannot_fit=str(error))


def find_fault(table: TokenTable, data: bytes) -> bytes:
    """From fields with their schemas to a FoundFault, or None."""
    num_left = MAX_PIECES
    for field, schema in values.loads(data):
        for piece, place, grammar in islice(pieces_of(schema, field), num_left):
            num_left -= 1
            try:
                table.check(grammar)
            except GrammarError as error:
                return msgspec.msgpack.encode(FoundFault(field, place, piece.keyword, str(error)))
    return msgspec.msgpack.encode(None)
