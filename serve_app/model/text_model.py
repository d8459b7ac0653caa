"""Text model: the tokenizer, chat template, end-of-sequence ids and sampling defaults of one served model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from configs.schema import ModelConfig
from engine.checkpoint.gguf_file import read_metadata
from engine.checkpoint.source import resolve
from engine.errors import ModelError
from serve_app.model.gguf_tokenizer import build_gguf_tokenizer
from serve_app.model.inner_text import inner_tokenizer
from serve_app.model.pretokenizers import TIKTOKEN_CUTS, pre_tokenizer
from serve_app.model.template import ChatTemplate, compile_template
from serve_app.text.reasoning_parser import REASONING_FORMATS, ReasoningFormat, find_reasoning_format
from serve_app.text.vocabulary import Vocabulary, read_vocabulary
from serve_app.tools.formats import TOOL_CALL_FORMATS, find_tool_call_format
from serve_app.tools.tool_call_format import ToolCallFormat

__all__ = ["ModelFiles", "SamplingDefaults", "TextModel", "build_text_model", "load_text_model"]

# tokens that end a turn, also where a .gguf file's metadata does not name them
TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")
TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class SamplingDefaults(msgspec.Struct, frozen=True):
    """Defaults of sampling parameters: the model's generation_config.json."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None  # of a chat's answer; None: up to the context length


class TextModel(msgspec.Struct, frozen=True, kw_only=True):
    name: str  # the id in answers
    tokenizer: Tokenizer
    inner_tokenizer: Tokenizer  # of text that follows other text
    vocabulary: Vocabulary
    marked_vocabulary: Vocabulary  # the same, with the markers of reasoning and tool calls shown
    reasoning_format: ReasoningFormat | None
    tool_call_format: ToolCallFormat
    template: ChatTemplate | None  # base models have none
    template_variables: Mapping[str, str]  # bos_token, eos_token, ...
    eos_ids: tuple[int, ...]
    defaults: SamplingDefaults
    max_model_len: int  # tokens, prompt and answer together

    def encode(self, text: str, *, add_special_tokens: bool = False) -> tuple[int, ...]:
        """Token ids. Releases the GIL, which `Tokenizer.encode` does not."""
        return tuple(self.tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)

    def encode_inner(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that follows another, as parts of an answer do: no space is added before it."""
        return tuple(self.inner_tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def with_template(self, source: str) -> ChatTemplate:
        """Another chat template with this model's special tokens. Its errors show when it is rendered."""
        return ChatTemplate(source, self.template_variables)


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a model's files, independent of their format."""

    tokenizer: Tokenizer
    template: str | None
    template_variables: Mapping[str, str]
    eos_ids: tuple[int | None, ...]
    defaults: SamplingDefaults
    trained_context_len: int | None  # tokens


def load_text_model(model: ModelConfig) -> TextModel:
    """Loads, and if needed downloads, the tokenizer and templates of a model. Raises ModelError."""
    files = resolve(model.model, weights=False)
    try:
        return _from_gguf(model, files.path) if files.kind == "gguf" else _from_folder(model, files.path)
    except ModelError as error:
        raise ModelError(f"{model.model}: {error}") from error


def build_text_model(model: ModelConfig, files: ModelFiles) -> TextModel:
    """Builds a text model of its config and its files."""
    vocabulary, template = read_vocabulary(files.tokenizer), files.template
    reasoning_format = _reasoning_format(model.reasoning_parser, template or "")
    tool_call_format = _tool_call_format(model.tool_call_parser, template or "")
    markers = (reasoning_format.opens, reasoning_format.closes) if reasoning_format is not None else ()
    return TextModel(
        name=model.name,
        tokenizer=files.tokenizer,
        inner_tokenizer=inner_tokenizer(files.tokenizer),
        vocabulary=vocabulary,
        marked_vocabulary=vocabulary.showing((*tool_call_format.markers, *markers)),
        reasoning_format=reasoning_format,
        tool_call_format=tool_call_format,
        template=compile_template(template, files.template_variables) if template else None,
        template_variables=files.template_variables,
        eos_ids=tuple(dict.fromkeys(token for token in files.eos_ids if token is not None)),
        defaults=files.defaults,
        max_model_len=_context_len(model, files.trained_context_len),
    )


def _from_gguf(model: ModelConfig, path: Path) -> TextModel:
    metadata = read_metadata(path)
    tokenizer = build_gguf_tokenizer(metadata)
    pieces = metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    ends = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    files = ModelFiles(
        tokenizer=tokenizer,
        template=metadata.get("tokenizer.chat_template"),
        template_variables={name: pieces[token] for name, token in ids.items() if token is not None},
        eos_ids=(*ends, *(token for piece in TURN_ENDS if (token := tokenizer.token_to_id(piece)) in special)),
        defaults=SamplingDefaults(),
        trained_context_len=metadata.get(f"{metadata.get('general.architecture')}.context_length"),
    )
    return build_text_model(model, files)


def _from_folder(model: ModelConfig, path: Path) -> TextModel:
    # imported here: transformers takes a second to import, and a .gguf file does not need it
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    try:
        loaded = TokenizersBackend.from_pretrained(path, local_files_only=True)
    except Exception as error:  # of any kind: the folder's files decide
        raise ModelError(f"no tokenizer could be read from {path}: {error}") from error
    config = _read_json(path / "config.json")
    generation = _read_json(path / "generation_config.json")
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    template = loaded.chat_template
    known = {key: generation[key] for key in SamplingDefaults.__struct_fields__ if generation.get(key) is not None}
    tokenizer = loaded.backend_tokenizer
    if (cut := _tiktoken_cut(path)) is not None:
        tokenizer.pre_tokenizer = pre_tokenizer(cut)
    text = config.get("text_config") or config
    files = ModelFiles(
        tokenizer=tokenizer,
        template=template.get("default") if isinstance(template, dict) else template,
        template_variables={
            name: str(value) for name in TOKEN_NAMES if (value := getattr(loaded, name, None)) is not None
        },
        eos_ids=(loaded.eos_token_id, *(ends if isinstance(ends, list) else [ends])),
        defaults=msgspec.convert(known, SamplingDefaults, strict=False),
        trained_context_len=text.get("max_position_embeddings", text.get("model_max_length")),
    )
    return build_text_model(model, files)


def _tiktoken_cut(path: Path) -> str | None:
    """The pre-tokenizer of a tiktoken.model, which has none itself, and which transformers takes for GPT-4's; None: it
    is that, or another file has it.
    """
    if (path / "tokenizer.json").exists() or not (path / "tiktoken.model").exists():
        return None
    return TIKTOKEN_CUTS.get(_read_json(path / "tokenizer_config.json").get("tokenizer_class", ""))


def _reasoning_format(name: str | None, template: str) -> ReasoningFormat | None:
    if name is None:
        return find_reasoning_format(template)
    if name != "none" and name not in REASONING_FORMATS:
        raise ModelError(f"reasoning_parser {name!r} is not known; known are none, {', '.join(REASONING_FORMATS)}")
    return REASONING_FORMATS.get(name)


def _tool_call_format(name: str | None, template: str) -> ToolCallFormat:
    if name is None:
        return find_tool_call_format(template)
    if name not in TOOL_CALL_FORMATS:
        raise ModelError(f"tool_call_parser {name!r} is not known; known are {', '.join(TOOL_CALL_FORMATS)}")
    return TOOL_CALL_FORMATS[name]


def _context_len(model: ModelConfig, trained_len: int | None) -> int:
    wanted = model.engine.max_model_len
    if trained_len is None and wanted is None:
        raise ModelError("nothing says how long its context is; set engine.max_model_len")
    return min(length for length in (wanted, trained_len) if length is not None)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}
