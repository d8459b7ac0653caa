"""Log probabilities of few tokens, without writing those of all."""

from torch import Tensor

__all__ = ["logprobs"]


def logprobs(logits_RV: Tensor, chosen_R: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """log_softmax of the chosen token and of the most likely ones.

    logits_RV  [R, V] fp32
    chosen_R   [R] int64

    Returns chosen [R] fp32, and ids [R, K] int64 and values [R, K] fp32 of the num_top (at most V) largest, most likely
    first, the lower id first among equals.
    """
    top_ids = logits_RV.topk(min(num_top, logits_RV.shape[1])).indices.sort(-1).values
    top_logits, order = logits_RV.gather(-1, top_ids).sort(stable=True, dim=-1, descending=True)
    total_R1 = logits_RV.logsumexp(-1, keepdim=True)
    chosen_R1 = logits_RV.gather(-1, chosen_R[:, None]) - total_R1
    return chosen_R1[:, 0], top_ids.gather(-1, order), top_logits - total_R1
