import random

import pytest
from transformers import GemmaTokenizer, Qwen3_5Tokenizer

from engine.errors import ModelError
from serve_app.model.gguf_tokenizer import build_gguf_tokenizer
from tests.serve_app.toy import byte_level_metadata, sentencepiece_metadata


def pieces(text, pre):
    tokenizer = build_gguf_tokenizer(byte_level_metadata(pre))
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "x  2020", ["x", "Ġ", "Ġ2020"]),
        ("phi-2", "x  2020", ["x", "Ġ", "Ġ2020"]),
        ("stablelm2", "x 12", ["x", "Ġ", "1", "2"]),
        ("smollm", "x  2020", ["x", "ĠĠ", "2", "0", "2", "0"]),
        ("smollm", "\n  1. foo", ["ĊĠĠ", "1", ".", "Ġfoo"]),
        ("smollm", "x²", ["x", "Â²"]),
        ("llama-bpe", "x 12345 It's", ["x", "Ġ", "123", "45", "ĠIt", "'s"]),
        ("qwen2", "x 123 It'S\n\ny", ["x", "Ġ", "1", "2", "3", "ĠIt", "'S", "ĊĊ", "y"]),
        ("tekken", "helloWorld's 12", ["hello", "World", "'s", "Ġ", "1", "2"]),
        ("gpt-4o", "helloWorld's 1234", ["hello", "World's", "Ġ", "123", "4"]),
        ("gpt-4o", "日本helloWorld's!/\n", ["æĹ¥æľ¬hello", "World's", "!/Ċ"]),
        ("kimi-k2", "日本helloWorld's!/\n", ["æĹ¥æľ¬", "hello", "World's", "!/Ċ"]),
        ("kimi-k2", "カナ  1234!\n/", ["ãĤ«ãĥĬ", "Ġ", "Ġ", "123", "4", "!Ċ", "/"]),
        ("exaone4", "x  2020", ["x", "Ġ", "Ġ2020"]),
        ("lfm2", "x 12345 It's", ["x", "Ġ", "123", "45", "ĠIt", "'s"]),
        ("glm4", "x 12345", ["x", "Ġ", "123", "45"]),
        ("seed-coder", "a!\n\nb 12", ["a", "!", "ĊĊ", "b", "Ġ", "1", "2"]),
        ("kimi-k2", "helloWorld's 1234!\n/", ["hello", "World's", "Ġ", "123", "4", "!Ċ", "/"]),
        ("kimi-k2", "x  中文 ok", ["x", "Ġ", "Ġ", "ä¸Ńæĸĩ", "Ġok"]),
        ("kimi-k2", "คน中", ["à¸Ħà¸Ļ", "ä¸Ń"]),
        ("deepseek-v3", "x 12345 .join!\n", ["x", "Ġ", "123", "45", "Ġ.", "join", "!Ċ"]),
    ],
)
def test_text_is_cut_as_the_named_model_cuts_it(pre, text, expected):
    assert pieces(text, pre) == expected


def test_qwen_3_5_cuts_as_transformers_does():
    """Marks belong to the letters before them."""
    theirs = Qwen3_5Tokenizer(vocab={}, merges=[]).backend_tokenizer.pre_tokenizer
    for text in ("हिन्दी भाषा 123", "x² It'S\n\n  y", "ไทย! — ok"):
        assert pieces(text, "qwen35") == [piece for piece, _ in theirs.pre_tokenize_str(text)]
    assert pieces("हिन्दी", "qwen35") != pieces("हिन्दी", "qwen2")


def test_an_unknown_cut_is_an_error_that_names_the_known_ones():
    with pytest.raises(ModelError, match=r"'klingon'.*known are.*llama-bpe.*smollm"):
        build_gguf_tokenizer(byte_level_metadata("klingon"))


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ModelError, match=r"'bert'.*gpt2, llama"):
        build_gguf_tokenizer({**byte_level_metadata(), "tokenizer.ggml.model": "bert"})


def test_special_tokens_are_found_inside_text():
    tokenizer = build_gguf_tokenizer(byte_level_metadata())
    assert tokenizer.encode("<|im_start|>a<tool_call><|im_end|>").ids == [1, 4 + ord("a"), 3, 2]


def test_sentencepiece_merges_the_best_score_first():
    tokenizer = build_gguf_tokenizer(sentencepiece_metadata())
    assert tokenizer.encode("hello world", add_special_tokens=False).tokens == ["▁hello", "▁world"]
    assert tokenizer.encode("日", add_special_tokens=False).tokens[1:] == ["<0xE6>", "<0x97>", "<0xA5>"]


def greedy(text, scores):
    """Sentencepiece's own way: the adjacent pair with the best score is merged until none is left."""
    symbols = list(text)
    while True:
        pairs = [
            (scores[a + b], -i) for i, (a, b) in enumerate(zip(symbols, symbols[1:], strict=False)) if a + b in scores
        ]
        if not pairs:
            return symbols
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


def test_sentencepiece_merges_as_sentencepiece_does():
    draw = random.Random(5)
    letters = "abc▁"
    words = {"".join(draw.choices(letters, k=draw.randrange(2, 6))) for _ in range(60)}
    scores = {word: -float(rank) for rank, word in enumerate(sorted(words, key=lambda word: draw.random()))}
    tokens = ["<unk>", *letters, *scores]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 5 + list(scores.values()),
        "tokenizer.ggml.token_type": [2] + [1] * (len(tokens) - 1),
        "tokenizer.ggml.add_space_prefix": False,
    }
    tokenizer = build_gguf_tokenizer(metadata)
    for _ in range(300):
        text = "".join(draw.choices("abc ", k=draw.randrange(1, 25)))
        assert tokenizer.encode(text).tokens == greedy(text.replace(" ", "▁"), scores)


def test_plain_text_begins_with_bos_where_the_file_says_so():
    assert build_gguf_tokenizer(sentencepiece_metadata()).encode("hello").ids[0] == 1
    tokenizer = build_gguf_tokenizer({**byte_level_metadata(), "tokenizer.ggml.add_bos_token": True})
    assert tokenizer.encode("a").ids == [1, 4 + ord("a")]
    assert build_gguf_tokenizer(byte_level_metadata()).encode("a").ids == [4 + ord("a")]


def test_gemma_4_merges_as_transformers_does():
    pieces = [*"abchel▁o\n", "he", "ll", "▁▁", "hell", "hello", "▁hello", "\n\n"]
    merges = [("h", "e"), ("l", "l"), ("▁", "▁"), ("he", "ll"), ("hell", "o"), ("▁", "hello"), ("\n", "\n")]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    tokens = list(dict.fromkeys(tokens))
    theirs = GemmaTokenizer(vocab={piece: token for token, piece in enumerate(tokens)}, merges=merges)
    ours = build_gguf_tokenizer(
        {
            "tokenizer.ggml.model": "gemma4",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
            "tokenizer.ggml.token_type": [3] * 5 + [6] * 256 + [1] * (len(tokens) - 261),
            "tokenizer.ggml.unknown_token_id": 3,
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.add_bos_token": True,
        }
    )
    for text in ("hello", "  hello abc\n\nhell é", "a<eos>b", ""):
        assert ours.encode(text).ids == [2, *theirs(text, add_special_tokens=False).input_ids], text
        assert ours.decode(ours.encode(text).ids) == text.replace("<eos>", "")
