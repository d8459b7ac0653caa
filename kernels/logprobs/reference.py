"""Log probabilities of chosen and top tokens. The reference.

From torch's log_softmax, which reduces each row alone. Its logsumexp shares the sum of a row out among threads, other
ones for another number of rows: the last bit then depends on a token's neighbors in the batch.
"""

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
    order = logits_RV.gather(-1, top_ids).sort(stable=True, dim=-1, descending=True).indices
    ids_RK = top_ids.gather(-1, order)
    logprobs_RV = logits_RV.log_softmax(-1)
    return logprobs_RV.gather(-1, chosen_R[:, None])[:, 0], ids_RK, logprobs_RV.gather(-1, ids_RK)
