"""The language model inside a checkpoint that also sees."""

import logging

from torch import Tensor

from engine.model.matrix import Matrix
from engine.model.weights import TensorSource
from engine.tensor_parallel import Part

__all__ = ["TextPart"]

log = logging.getLogger(__name__)

# where a language model is in a larger one, as older and as newer transformers write it
LANGUAGE = {"language_model.model.": "model.", "language_model.lm_head.": "lm_head.", "model.language_model.": "model."}
SIGHT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


class TextPart:
    """Its tensors under the names that they have on their own. Those that see are left aside, which is logged."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        names = source.names()
        unseen = {name for name in names if name.startswith(SIGHT)}
        if unseen:
            log.warning("images are not read: %d tensors that see them are left aside", len(unseen))
        self._names = {_own_name(name): name for name in names - unseen}

    def names(self) -> set[str]:
        return set(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._names[name])

    def read(self, name: str, part: Part | None = None) -> Tensor:
        return self._source.read(self._names[name], part)

    def read_matrix(self, name: str, part: Part | None = None) -> Matrix:
        return self._source.read_matrix(self._names[name], part)


def _own_name(name: str) -> str:
    for there, own in LANGUAGE.items():
        if name.startswith(there):
            return own + name.removeprefix(there)
    return name
