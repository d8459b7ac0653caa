"""Tokens of text that follows other text."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from serve_app.model.gguf_tokenizer import build_gguf_tokenizer
from serve_app.model.inner_text import inner_tokenizer
from tests.serve_app.toy import byte_level_metadata, sentencepiece_metadata

SPACES = normalizers.Replace(" ", "▁")
ADDS_SPACE = {
    "a normalizer": (normalizers.Prepend("▁"), None),
    "a normalizer among others": (normalizers.Sequence([normalizers.Prepend("▁"), SPACES]), None),
    "a pre-tokenizer": (None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "a pre-tokenizer among others": (
        None,
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace(prepend_scheme="first")]),
    ),
    "a pre-tokenizer of bytes": (None, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)),
}


@pytest.mark.parametrize("where", ADDS_SPACE)
def test_no_space_is_added_before_it(where):
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "▁": 1, "Ġ": 2}, merges=[]))
    normalizer, pre_tokenizer = ADDS_SPACE[where]
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    assert len(tokenizer.encode("a").ids) == 2
    assert inner_tokenizer(tokenizer).encode("a").ids == [0]


def test_its_own_spaces_stay():
    inner = inner_tokenizer(build_gguf_tokenizer(sentencepiece_metadata()))
    assert inner.encode(" hello world", add_special_tokens=False).tokens == ["▁hello", "▁world"]
    assert inner.encode("hello", add_special_tokens=False).tokens == ["h", "el", "lo"]


@pytest.mark.parametrize("metadata", [byte_level_metadata(), sentencepiece_metadata(add_space_prefix=False)])
def test_a_tokenizer_that_adds_no_space_serves_both(metadata):
    tokenizer = build_gguf_tokenizer(metadata)
    assert inner_tokenizer(tokenizer) is tokenizer
