"""Pre-tokenizers: how BPE tokenizers split text before merging, one entry per value of `tokenizer.ggml.pre`.

A .gguf file has only the name of the pre-tokenizer. A wrong one gives other tokens for digits, blanks and scripts
without blanks, and a silently worse model; so an unknown name is an error.
"""

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from engine.errors import ModelError

__all__ = ["knows_nfc", "merges_last", "pre_tokenizer"]

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _words(digits: str) -> str:
    """The split of cl100k (GPT-4); models differ in how many digits stay together."""
    return rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{BLANKS}"


def _cased_words(contraction: str, digits: str) -> str:
    """The split of o200k (GPT-4o): a new word where upper case begins."""
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{contraction}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{contraction}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{BLANKS}"
    )


# name -> regular expression; None: GPT-2's own, which ByteLevel has built in
CUTS: dict[str, str | None] = {
    "gpt-2": None,
    "olmo": None,
    "llama-bpe": _words(r"\p{N}{1,3}"),
    "llama3": _words(r"\p{N}{1,3}"),
    "llama-v3": _words(r"\p{N}{1,3}"),
    "dbrx": _words(r"\p{N}{1,3}"),
    "smaug-bpe": _words(r"\p{N}{1,3}"),
    "qwen2": _words(r"\p{N}"),
    "deepseek-r1-qwen": _words(r"\p{N}"),
    "tekken": _cased_words("", r"\p{N}"),
    "gpt-4o": _cased_words(f"{CONTRACTION}?", r"\p{N}{1,3}"),
    "llama4": _cased_words(f"{CONTRACTION}?", r"\p{N}{1,3}"),
}
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r")  # every digit alone, then GPT-2's split


def pre_tokenizer(name: str) -> PreTokenizer:
    """Raises ModelError for an unknown name."""
    if name in DIGITS_APART:
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    if name not in CUTS:
        known = ", ".join(sorted([*CUTS, *DIGITS_APART]))
        raise ModelError(f"tokenizer.ggml.pre is {name!r}, which is not known; known are {known}")
    cut = CUTS[name]
    if cut is None:
        return ByteLevel(add_prefix_space=False, use_regex=True)
    return Sequence([Split(Regex(cut), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


def knows_nfc(name: str) -> bool:
    """Whether text is normalised to NFC first."""
    return name in ("qwen2", "deepseek-r1-qwen")


def merges_last(name: str) -> bool:
    """Whether a whole word that is in the vocabulary is taken without merging."""
    return name in ("llama-bpe", "llama3", "llama-v3", "tekken", "gpt-4o", "llama4")
