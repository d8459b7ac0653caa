"""Multi-head latent attention (MLA) in its absorbed form: all heads share one cached row per token. The reference.

DeepSeek-V2 (arXiv 2405.04434): keys and values of all heads are projections of one latent. Here the projections have
moved into the queries before and the outputs after, so that attention reads latents alone.
"""

from torch import Tensor

from kernels.latent_attention.spec import LatentSpec
from kernels.paged_attention.reference import paged_attention
from kernels.paged_attention.spec import AttentionLayout, AttentionSpec

__all__ = ["latent_attention"]


def latent_attention(q_THX: Tensor, cache: Tensor, layout: AttentionLayout, spec: LatentSpec) -> Tensor:
    """Causal attention over a ragged batch, as kernels/paged_attention.

    q_THX   [T, H, X]
    cache   [N, 1, P, X']  of each token the latent, `spec.rank` numbers, and the rotated key, X - rank; what is behind
                           these is another's
    layout                 which rows and blocks are whose; its shared prefixes are read row by row

    Returns [T, H, rank] in q's dtype: latents, weighted by softmax(scale * q @ row). Rows that belong to no sequence
    are padding and come back as 0. A slot past seq_lens is never read, whatever it holds.
    """
    rules = AttentionSpec(spec.scale)
    cache = cache[..., : q_THX.shape[2]]
    return paged_attention(q_THX, (cache, cache[..., : spec.rank]), layout, rules)
