import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.model.gguf_tokenizer import build_gguf_tokenizer
from serve_app.text.detokenizer import IncrementalDetokenizer
from serve_app.text.vocabulary import read_vocabulary
from tests.serve_app.toy import byte_level_metadata, byte_tokens, sentencepiece_metadata

BYTE_LEVEL = build_gguf_tokenizer(byte_level_metadata())
VOCABULARY = read_vocabulary(BYTE_LEVEL)
SENTENCEPIECE = build_gguf_tokenizer(sentencepiece_metadata())
TEXTS = [
    "hello world",
    "the  end\n\n 1 23",
    "naïve café",
    "日本語のテキスト",
    "👩‍👩‍👧‍👦 ok 🇩🇪",
    "",
    " ",
    "\x00\x7f",
    "x²½",
]


def pieces_of(tokens, cuts, **options):
    detokenizer = IncrementalDetokenizer(VOCABULARY, **options)
    bounds = [0, *sorted(cut % (len(tokens) + 1) for cut in cuts), len(tokens)]
    pieces = [detokenizer.push(tokens[start:stop]) for start, stop in zip(bounds, bounds[1:], strict=False)]
    return [*pieces, detokenizer.flush()]


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.integers(0, VOCABULARY.num_tokens - 1), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    skip=st.booleans(),
)
def test_pieces_joined_are_what_the_tokenizer_decodes(tokens, cuts, skip):
    assert "".join(pieces_of(tokens, cuts, skip_special=skip)) == BYTE_LEVEL.decode(tokens, skip_special_tokens=skip)


@pytest.mark.parametrize("text", TEXTS)
def test_real_text_comes_back_token_by_token(text):
    tokens = BYTE_LEVEL.encode(text).ids
    assert "".join(pieces_of(tokens, range(len(tokens)))) == text


@pytest.mark.parametrize("text", TEXTS)
def test_no_piece_holds_half_a_codepoint(text):
    pieces = pieces_of(byte_tokens(text), range(len(byte_tokens(text))))
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert [char for piece in pieces for char in piece] == list(text)


def test_an_unfinished_codepoint_becomes_one_replacement_at_the_end():
    assert pieces_of(byte_tokens("a€")[:-1], [1, 2, 3])[-1] == "\N{REPLACEMENT CHARACTER}"


def test_an_id_without_a_token_says_nothing():
    assert "".join(pieces_of([4 + ord("a"), 10**6, 4 + ord("b")], [1, 2])) == "ab"


@pytest.mark.parametrize("text", ["hello world", "hello  world.", " hello", "日本 hello é", "a\nb"])
def test_sentencepiece_text_comes_back(text):
    tokens = SENTENCEPIECE.encode(text, add_special_tokens=False).ids
    detokenizer = IncrementalDetokenizer(read_vocabulary(SENTENCEPIECE))
    said = "".join(detokenizer.push([token]) for token in tokens) + detokenizer.flush()
    assert said == SENTENCEPIECE.decode(tokens) == text


def test_an_answer_that_goes_on_keeps_its_first_space():
    vocabulary = read_vocabulary(SENTENCEPIECE)
    tokens = SENTENCEPIECE.encode("hello", add_special_tokens=False).ids
    assert IncrementalDetokenizer(vocabulary).push(tokens) == "hello"
    assert IncrementalDetokenizer(vocabulary, starts_text=False).push(tokens) == " hello"


@pytest.mark.parametrize("add_space_prefix", [True, False])
def test_random_sentencepiece_ids_are_what_the_tokenizer_decodes(add_space_prefix):
    tokenizer = build_gguf_tokenizer(sentencepiece_metadata(add_space_prefix=add_space_prefix))
    vocabulary = read_vocabulary(tokenizer)
    draw = random.Random(3)
    for _ in range(200):
        tokens = [draw.choice([*range(3), *range(259, vocabulary.num_tokens)]) for _ in range(draw.randrange(20))]
        detokenizer = IncrementalDetokenizer(vocabulary)
        said = "".join(detokenizer.push([token]) for token in tokens) + detokenizer.flush()
        assert said == tokenizer.decode(tokens, skip_special_tokens=True)


def test_token_bytes_joined_are_the_text():
    text = "日本 👩‍👧 naïve"
    tokens = BYTE_LEVEL.encode(text).ids
    assert b"".join(VOCABULARY.all_bytes[token] for token in tokens) == text.encode()
