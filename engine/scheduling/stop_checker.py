"""The stop checker: whether a sequence ends with a token, and with which finish reason."""

from engine.scheduling.sequence import Sequence
from engine.structured_output.repetition import ends_in_repetition
from engine.types import FinishReason

__all__ = ["finish_reason"]


def finish_reason(seq: Sequence, length: int, max_model_len: int) -> FinishReason | None:
    """The finish reason at a sequence's first `length` tokens; None: it goes on."""
    sampling, num_output = seq.request.sampling, length - seq.prompt_len
    if seq.tokens[length - 1] in sampling.stop_token_ids and num_output > sampling.min_tokens:
        return "stop"
    if num_output >= sampling.max_tokens or length >= max_model_len:
        return "length"
    repetition = sampling.repetition
    if repetition is not None and num_output >= sampling.min_tokens:
        tokens = seq.tokens if length == len(seq.tokens) else seq.tokens[:length]  # behind it are accepted drafts
        return "repetition" if ends_in_repetition(tokens, seq.prompt_len, repetition) else None
    return None
