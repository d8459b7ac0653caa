"""Pre-tokenizers: how BPE tokenizers split text before merging, one entry per value of `tokenizer.ggml.pre`.

A .gguf file has only the name of the pre-tokenizer. A wrong one gives other tokens for digits, blanks and scripts
without blanks, and a silently worse model; so an unknown name is an error.
"""

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from engine.errors import ModelError

__all__ = ["TIKTOKEN_CUTS", "adds_bos", "knows_nfc", "merges_last", "pre_tokenizer"]

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _words(digits: str, letters: str = r"\p{L}") -> str:
    """The split of cl100k (GPT-4); models differ in how many digits stay together, and in whether marks are letters."""
    other = letters.removeprefix("[").removesuffix("]")
    return rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?[^\s{other}\p{{N}}]+[\r\n]*|{BLANKS}"


def _cased_words(contraction: str, digits: str, but: str = "", ends: str = r"[\r\n/]*") -> str:
    """The split of o200k (GPT-4o): a new word where upper case begins. `but`: takes scripts out of words; `ends`: what
    punctuation takes with it.
    """
    upper, lower = (f"{letters[:-1]}{but}]" for letters in (UPPER, LOWER))
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{contraction}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{contraction}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+{ends}|{BLANKS}"
    )


THREE_DIGITS, ONE_DIGIT, O200K = _words(r"\p{N}{1,3}"), _words(r"\p{N}"), _cased_words(f"{CONTRACTION}?", r"\p{N}{1,3}")
KIMI = r"\p{Han}+|" + _cased_words(f"{CONTRACTION}?", r"\p{N}{1,3}", r"&&[^\p{Han}]", r"[\r\n]*")
ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    rf"{ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{BLANKS}",
)
LLAMA_3 = ("llama-bpe", "llama3", "llama-v3", "pixtral", "lfm2", "falcon3", "falcon-h1")

# name -> regular expressions, each of which cuts what the ones before left; none: GPT-2's own, which ByteLevel has
CUTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "exaone4"), ()),
    **dict.fromkeys((*LLAMA_3, "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), (THREE_DIGITS,)),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "solar-open"), (ONE_DIGIT,)),
    "qwen35": (_words(r"\p{N}", r"[\p{L}\p{M}]"),),
    "seed-coder": (rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{BLANKS}",),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), DEEPSEEK),
    "tekken": (_cased_words("", r"\p{N}"),),
    "kimi-k2": (KIMI,),
    **dict.fromkeys(("gpt-4o", "llama4", "minimax-m2"), (O200K,)),
}
# the class of a tiktoken.model in tokenizer_config.json -> name; Moonshot's for Kimi and Moonlight
TIKTOKEN_CUTS = {"TikTokenTokenizer": "kimi-k2"}
# every digit alone, then GPT-2's split
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "exaone")


def pre_tokenizer(name: str) -> PreTokenizer:
    """Raises ModelError for an unknown name."""
    if name in DIGITS_APART:
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    if name not in CUTS:
        known = ", ".join(sorted([*CUTS, *DIGITS_APART]))
        raise ModelError(f"tokenizer.ggml.pre is {name!r}, which is not known; known are {known}")
    cuts = [Split(Regex(cut), "isolated") for cut in CUTS[name]]
    return Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=not cuts)])


def knows_nfc(name: str) -> bool:
    """Whether text is normalised to NFC first."""
    return name in ("qwen2", "qwen35", "deepseek-r1-qwen")


def merges_last(name: str) -> bool:
    """Whether a whole word that is in the vocabulary is taken without merging."""
    return name in (*LLAMA_3, "tekken", "gpt-4o", "llama4")


def adds_bos(name: str) -> bool:
    """Whether text begins with BOS where the file does not say."""
    return name in (*LLAMA_3, "tekken")
