"""Logprobs: the alternatives that are sent, and the shape of prompt logprobs."""

from collections.abc import Sequence

from engine import types as engine
from serve_app.api.responses import PromptLogprob, PromptLogprobs
from serve_app.text.vocabulary import Vocabulary

__all__ = ["LOWEST", "prompt_logprobs", "top_alternatives"]

LOWEST = -9999.0  # JSON has no -inf


def prompt_logprobs(
    entries: Sequence[engine.PromptLogprob], vocabulary: Vocabulary, num_top: int | None = None
) -> PromptLogprobs:
    """One entry for each token of the prompt, None for the first: the token itself, then the most likely ones.

    num_top   most likely ones, at most; None: all
    """

    def shape(token: int, logprob: float, rank: int) -> PromptLogprob:
        return {"logprob": logprob, "rank": rank, "decoded_token": vocabulary.text(token)}

    found: PromptLogprobs = [None]
    for entry in entries:
        at = {str(entry.token): shape(entry.token, entry.logprob, entry.rank)}
        for rank, (token, logprob) in enumerate(entry.top[:num_top], start=1):
            at.setdefault(str(token), shape(token, logprob, rank))
        found.append(at)
    return found


def top_alternatives(entry: engine.TokenLogprob, num_top: int | None) -> Sequence[tuple[int, float]]:
    """(token, logprob), likely ones first: the client's tokens and the sampled one, else the most likely ones."""
    if not entry.named:
        return entry.top[:num_top]
    found = {entry.token: entry.logprob, **dict(entry.named)}
    return sorted(found.items(), key=lambda pair: -pair[1])
