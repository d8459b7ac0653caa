"""Builds the tokenizer of a .gguf file from its metadata."""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from engine.errors import ModelError
from serve_app.model.pretokenizers import adds_bos, knows_nfc, merges_last, pre_tokenizer

__all__ = ["build_gguf_tokenizer"]

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # values of tokenizer.ggml.token_type
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # sentencepiece's blank


def build_gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Raises ModelError if the file has no tokenizer or one of an unknown kind."""
    kind = metadata.get("tokenizer.ggml.model")
    if not isinstance(metadata.get("tokenizer.ggml.tokens"), list):
        raise ModelError("the file has no tokenizer (tokenizer.ggml.tokens)")
    if kind == "gpt2":
        tokenizer = _byte_level(metadata)
    elif kind in ("llama", "gemma4"):
        tokenizer = _sentencepiece(metadata)
    else:
        raise ModelError(f"tokenizer.ggml.model is {kind!r}, which is not known; known are gpt2, llama, gemma4")
    _add_marked_tokens(tokenizer, metadata, normalized=kind != "gpt2")
    _add_bos(tokenizer, metadata)
    return tokenizer


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre", "none")
    merges = [_pair(merge) for merge in metadata.get("tokenizer.ggml.merges", [])]
    tokenizer = Tokenizer(models.BPE(vocab=_ids(metadata), merges=merges, ignore_merges=merges_last(pre)))
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    if knows_nfc(pre):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    """Sentencepiece's BPE; Gemma 4's has its merges in the file, others have scores."""
    vocab = _ids(metadata)
    is_merged = metadata["tokenizer.ggml.model"] == "gemma4"
    merges = [_pair(merge) for merge in metadata.get("tokenizer.ggml.merges", [])] if is_merged else _merges(metadata)
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    unknown_piece = metadata["tokenizer.ggml.tokens"][unknown]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=unknown_piece, fuse_unk=True, byte_fallback=True)
    )
    prefixed = metadata.get("tokenizer.ggml.add_space_prefix", not is_merged)
    spaces = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), *spaces] if prefixed else spaces)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return tokenizer


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pair whose union has the best score is merged first."""
    vocab, scores = _ids(metadata), metadata.get("tokenizer.ggml.scores")
    if not scores:
        raise ModelError("the file has no tokenizer.ggml.scores, which its kind of tokenizer needs")
    found = [
        (-scores[token], token, piece[:cut], piece[cut:])
        for piece, token in vocab.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    return [(left, right) for _, _, left, right in sorted(found)]


def _ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    return {piece: token for token, piece in enumerate(metadata["tokenizer.ggml.tokens"])}


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _add_marked_tokens(tokenizer: Tokenizer, metadata: Mapping[str, Any], *, normalized: bool) -> None:
    """Control tokens are special; user-defined ones are only kept whole."""
    types = metadata.get("tokenizer.ggml.token_type", [])
    marked = [pair for pair in zip(metadata["tokenizer.ggml.tokens"], types, strict=False) if pair[1] != 1]
    tokenizer.add_special_tokens(
        [AddedToken(piece, normalized=False, special=True) for piece, kind in marked if kind in (UNKNOWN, CONTROL)]
    )
    tokenizer.add_tokens(
        [AddedToken(piece, normalized=normalized, special=False) for piece, kind in marked if kind == USER_DEFINED]
    )


def _add_bos(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Adds BOS in front of plain text; a chat's template writes it itself."""
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    wanted = metadata["tokenizer.ggml.model"] != "gpt2" or adds_bos(metadata.get("tokenizer.ggml.pre", "none"))
    if bos is None or not metadata.get("tokenizer.ggml.add_bos_token", wanted):
        return
    piece = metadata["tokenizer.ggml.tokens"][bos]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{piece}:0 $A:0", pair=f"{piece}:0 $A:0 $B:1", special_tokens=[(piece, bos)]
    )
