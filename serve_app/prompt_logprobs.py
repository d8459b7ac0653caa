"""How log probabilities of a prompt's tokens look on the wire."""

from collections.abc import Sequence
from typing import Any

from engine.types import PromptLogprob
from serve_app.vocabulary import Vocabulary

__all__ = ["Shown", "shown_prompt"]

Shown = list[dict[str, Any] | None]


def shown_prompt(entries: Sequence[PromptLogprob], vocabulary: Vocabulary, num_top: int | None = None) -> Shown:
    """One entry for each token of the prompt, None for the first: the token itself, then the most likely ones.

    num_top   of the most likely ones at most; None: all that are there
    """

    def shown(token: int, logprob: float, rank: int) -> dict[str, Any]:
        return {"logprob": logprob, "rank": rank, "decoded_token": vocabulary.text(token)}

    told: Shown = [None]
    for entry in entries:
        at = {str(entry.token): shown(entry.token, entry.logprob, entry.rank)}
        for rank, (token, logprob) in enumerate(entry.top[:num_top], start=1):
            at.setdefault(str(token), shown(token, logprob, rank))
        told.append(at)
    return told
