"""Which log probabilities are told, and how those of a prompt look on the wire."""

from collections.abc import Sequence
from typing import Any

from engine.types import PromptLogprob, TokenLogprob
from serve_app.text.vocabulary import Vocabulary

__all__ = ["LOWEST", "Shown", "shown_prompt", "told_alternatives"]

LOWEST = -9999.0  # JSON has no -inf

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


def told_alternatives(entry: TokenLogprob, num_top: int | None) -> Sequence[tuple[int, float]]:
    """(token, logprob), likely ones first: of the tokens that the client named and the chosen one, else of the top."""
    if not entry.named:
        return entry.top[:num_top]
    told = {entry.token: entry.logprob, **dict(entry.named)}
    return sorted(told.items(), key=lambda pair: -pair[1])
