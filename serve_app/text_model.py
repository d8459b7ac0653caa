"""What the text floor knows of a model: tokenizer, template, where an answer ends, how it samples by default."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from configs.schema import ModelConfig
from engine.errors import ModelError
from engine.model.gguf_file import read_metadata
from engine.model.source import resolve
from serve_app.gguf_tokenizer import build_gguf_tokenizer
from serve_app.template import ChatTemplate, compile_template
from serve_app.vocabulary import Vocabulary, read_vocabulary

__all__ = ["SamplingDefaults", "TextModel", "load_text_model"]

# tokens that end a turn, whether or not a .gguf file's metadata says so
TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")
TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class SamplingDefaults(msgspec.Struct, frozen=True):
    """What a request that does not say gets: the model's generation_config.json."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class TextModel(msgspec.Struct, frozen=True, kw_only=True):
    name: str  # the id answers carry
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    template: ChatTemplate | None  # base models have none
    template_variables: Mapping[str, str]  # bos_token and its like
    eos_ids: tuple[int, ...]
    defaults: SamplingDefaults
    max_context_len: int  # tokens, prompt and answer together

    def encode(self, text: str, *, add_special_tokens: bool = False) -> tuple[int, ...]:
        """Token ids. Lets other threads run meanwhile, which `Tokenizer.encode` does not."""
        return tuple(self.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)

    def with_template(self, source: str) -> ChatTemplate:
        """Another chat template with this model's special tokens. What is wrong with it shows when it is rendered."""
        return ChatTemplate(source, self.template_variables)


def load_text_model(model: ModelConfig) -> TextModel:
    """Reads, and downloads if need be, what the text floor needs. Raises ModelError."""
    files = resolve(model.source)
    try:
        text_model = _from_gguf(model, files.path) if files.kind == "gguf" else _from_folder(model, files.path)
    except ModelError as error:
        raise ModelError(f"{model.source}: {error}") from error
    return text_model


def _from_gguf(model: ModelConfig, path: Path) -> TextModel:
    metadata = read_metadata(path)
    tokenizer = build_gguf_tokenizer(metadata)
    vocabulary = read_vocabulary(tokenizer)
    pieces = metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    variables = {name: pieces[token] for name, token in ids.items() if token is not None}
    ends = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    ends += [token for piece in TURN_ENDS if (token := tokenizer.token_to_id(piece)) in vocabulary.special_ids]
    source = metadata.get("tokenizer.chat_template")
    made_for = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return TextModel(
        name=model.name,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        template=compile_template(source, variables) if source else None,
        template_variables=variables,
        eos_ids=_unique(ends),
        defaults=SamplingDefaults(),
        max_context_len=_context_len(model, made_for),
    )


def _from_folder(model: ModelConfig, path: Path) -> TextModel:
    # imported here: transformers' tokenizers take a second to import, and a .gguf file needs none of them
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    try:
        loaded = TokenizersBackend.from_pretrained(path, local_files_only=True)
    except Exception as error:  # whatever a folder's files make of it
        raise ModelError(f"no tokenizer could be read from {path}: {error}") from error
    tokenizer = loaded.backend_tokenizer
    config = _read_json(path / "config.json")
    generation = _read_json(path / "generation_config.json")
    config_ends = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = [loaded.eos_token_id, *(config_ends if isinstance(config_ends, list) else [config_ends])]
    variables = {name: str(value) for name in TOKEN_NAMES if (value := getattr(loaded, name, None)) is not None}
    source = loaded.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    known = {key: generation[key] for key in SamplingDefaults.__struct_fields__ if generation.get(key) is not None}
    text_config = config.get("text_config") or config
    return TextModel(
        name=model.name,
        tokenizer=tokenizer,
        vocabulary=read_vocabulary(tokenizer),
        template=compile_template(source, variables) if source else None,
        template_variables=variables,
        eos_ids=_unique(ends),
        defaults=msgspec.convert(known, SamplingDefaults, strict=False),
        max_context_len=_context_len(model, text_config.get("max_position_embeddings")),
    )


def _context_len(model: ModelConfig, made_for: int | None) -> int:
    wanted = model.engine.max_context_len
    if made_for is None and wanted is None:
        raise ModelError("nothing says how long its context is; set engine.max_context_len")
    return min(length for length in (wanted, made_for) if length is not None)


def _unique(tokens: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(token for token in tokens if token is not None))


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}
