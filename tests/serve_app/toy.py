"""Small tokenizers and models of serve_app, made in memory."""

from collections.abc import Sequence
from typing import Any

import msgspec

from configs.schema import ModelConfig
from serve_app.model.gguf_tokenizer import build_gguf_tokenizer
from serve_app.model.text_model import ModelFiles, SamplingDefaults, TextModel, build_text_model

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"]
WORDS = ["Ġthe", "Ġa", "he", "ll", "lo", "Ġw", "or", "ld", "Ċ", "in", "er", "st", "op"]


def byte_alphabet() -> list[str]:
    """GPT-2's letter for every byte, in the order of the bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in printable}
    for index, byte in enumerate(byte for byte in range(256) if byte not in printable):
        letters[byte] = chr(0x100 + index)
    return [letters[byte] for byte in range(256)]


def byte_level_metadata(pre: str = "smollm", kept: Sequence[str] = ()) -> dict[str, Any]:
    """Ids 0-2 special, 3 kept whole, 4-259 the bytes, then a few merges, then what else is kept whole."""
    merges = ["h e", "l l", "l o", "o r", "l d", "i n", "e r", "s t", "o p", "Ġ w", "Ġ a", "t he", "Ġ the"]
    merged = [merge.replace(" ", "") for merge in merges]
    plain = [*byte_alphabet(), *merged]
    tokens = [*MARKED, *plain, *kept]
    return {
        "general.architecture": "llama",
        "llama.context_length": 512,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, 4] + [1] * len(plain) + [4] * len(kept),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHATML,
    }


def sentencepiece_metadata(*, add_space_prefix: bool = True) -> dict[str, Any]:
    """Ids 0-2 special, 3-258 the bytes, then letters and a few words with scores."""
    letters = [*"▁abcdefghijklmnopqrstuvwxyz.,!é"]
    words = ["▁h", "el", "lo", "▁hel", "▁hello", "▁w", "or", "ld", "▁wor", "▁world"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *words]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-1000.0] * len(letters) + [-float(i) for i in range(len(words))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(letters) + len(words)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": add_space_prefix,
    }


def toy_model(
    name: str = "toy",
    template: str | None = CHATML,
    max_model_len: int = 512,
    kept: Sequence[str] = (),
    **changes: Any,
) -> TextModel:
    """A byte-level model: every byte is a token, so any text can be said in many ways. `kept`: tokens besides."""
    files = ModelFiles(
        tokenizer=build_gguf_tokenizer(byte_level_metadata(kept=kept)),
        template=template,
        template_variables={"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        eos_ids=(2,),
        defaults=SamplingDefaults(),
        trained_context_len=max_model_len,
    )
    model = build_text_model(ModelConfig(served_model_name=name, model="unused"), files)
    return msgspec.structs.replace(model, **changes)


def sentencepiece_model(name: str = "toy", template: str = CHATML) -> TextModel:
    """A model whose tokenizer adds a space before a text."""
    files = ModelFiles(
        tokenizer=build_gguf_tokenizer(sentencepiece_metadata()),
        template=template,
        template_variables={},
        eos_ids=(2,),
        defaults=SamplingDefaults(),
        trained_context_len=512,
    )
    return build_text_model(ModelConfig(served_model_name=name, model="unused"), files)


def byte_tokens(text: str) -> tuple[int, ...]:
    """The text as one token per byte, for toy_model."""
    return tuple(4 + byte for byte in text.encode())
