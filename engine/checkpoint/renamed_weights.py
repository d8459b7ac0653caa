"""Checkpoints with other weight names, or of multimodal models, of which the language model is taken."""

import logging
from collections.abc import Mapping

from torch import Tensor

from engine.checkpoint.layer_names import layer_index
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource

__all__ = ["CanonicalNames"]

log = logging.getLogger(__name__)

# the language model's prefix in a multimodal model, as older and as newer transformers write it
LANGUAGE = {"language_model.model.": "model.", "language_model.lm_head.": "lm_head.", "model.language_model.": "model."}
SENSES = (
    "vision_tower",
    "vision_model",
    "vision_embedder",
    "visual",
    "multi_modal_projector",
    "mm_projector",
    "embed_vision",
    "audio_tower",
    "embed_audio",
)
OTHER_PARTS = tuple(f"{prefix}{part}." for prefix in ("", "model.") for part in SENSES)


class CanonicalNames:
    """Tensors of the language model under the names that the decoder takes. Weights for images and audio are skipped,
    which is logged."""

    def __init__(
        self, source: TensorSource, renamed: Mapping[str, str], num_layers: int, layers_in_one: int = 1
    ) -> None:
        """renamed        parts of the family's names -> those that the decoder takes
        num_layers     layers from that on are for multi-token prediction, and left aside
        layers_in_one  so many of ours are one in the names: layers.3.mlps.1 of two in one is layers.7.mlps
        """
        self._source = source
        names = source.names()
        unseen = {name for name in names if name.startswith(OTHER_PARTS)}
        if unseen:
            log.warning("images and audio are not read: %d tensors for them are left aside", len(unseen))
        ours = {_canonical_name(name, renamed, layers_in_one): name for name in names - unseen}
        self._names = {name: there for name, there in ours.items() if not _predicts_more(name, num_layers)}
        if len(self._names) < len(ours):
            log.warning("multi-token prediction is not used: %d tensors are left aside", len(ours) - len(self._names))

    def names(self) -> set[str]:
        return set(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._names[name])

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        return self._source.read(self._names[name], part)

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        return self._source.read_matrix(self._names[name], part)


def _predicts_more(name: str, num_layers: int) -> bool:
    return name.startswith(("mtp.", "model.mtp.")) or (layer_index(name) or 0) >= num_layers


def _canonical_name(name: str, renamed: Mapping[str, str], layers_in_one: int) -> str:
    for there, usual in LANGUAGE.items():
        if name.startswith(there):
            name = usual + name.removeprefix(there)
    if layers_in_one > 1:
        name = _of_one_layer(name, layers_in_one)
    for there, usual in renamed.items():
        name = name.replace(there, usual)
    return name


def _of_one_layer(name: str, layers_in_one: int) -> str:
    """A part without a number belongs to the first of the layers."""
    match name.split("."):
        case ["model", "layers", layer, part, *rest]:
            sub, rest = (int(rest[0]), rest[1:]) if rest and rest[0].isdecimal() else (0, rest)
            return ".".join(["model", "layers", str(int(layer) * layers_in_one + sub), part, *rest])
    return name
