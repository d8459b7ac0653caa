"""The Triton kernels of latent attention, in the interpreter, against the reference and plain sums."""

import pytest
import torch

from kernels.head_linear.cuda import HeadLinear
from kernels.latent_attention.triton import latent_attention
from kernels.latent_rotary import reference
from kernels.latent_rotary.spec import LatentRotarySpec
from kernels.latent_rotary.triton import latent_rotary
from kernels.paged_attention.spec import AttentionLayout
from tests.kernels.test_latent_attention import BATCHES, HEADS, RANK, ROPE_DIM, Latents, error

LONG = [(600, 1), (256, 1), (257, 1), (3, 1)]


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("batch", [*BATCHES, "long"])
def test_a_query_sums_the_latents_of_its_past(batch, cut):
    for padding in (0, 2):
        latents = Latents({**BATCHES, "long": LONG}[batch], block_size=16, num_padding=padding)
        out = latents.attend(lambda *rest: latent_attention(*rest, cut=cut))
        assert error(out, latents.expected()) < 1e-5 and not out[len(out) - padding :].any()


def test_bfloat16_is_rounded_at_the_end():
    latents = Latents(BATCHES["chunks"], torch.bfloat16)
    assert error(latents.attend(latent_attention), latents.expected()) < 1e-2


def test_uncut_a_query_does_not_depend_on_its_batch():
    latents = Latents(BATCHES["chunks"])
    whole = latents.attend(lambda *rest: latent_attention(*rest, cut=False))
    for s, (length, count) in enumerate(BATCHES["chunks"]):
        row = int(latents.layout.query_starts[s])
        alone = AttentionLayout(
            torch.tensor([0, 1], dtype=torch.int32),
            torch.tensor([length - count + 1], dtype=torch.int32),
            latents.layout.block_table_SW[s : s + 1].contiguous(),
        )
        out = latent_attention(
            latents.queries[row : row + 1].contiguous(), latents.cache, alone, latents.spec, cut=False
        )
        assert torch.equal(out[0], whole[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_normed_rotated_and_written_as_the_reference_does(dtype):
    rng = torch.Generator().manual_seed(1)
    dim = RANK + ROPE_DIM
    queries, wide = (
        torch.randn(5, HEADS, dim, generator=rng).to(dtype),
        torch.randn(5, 2 * dim, generator=rng).to(dtype),
    )
    angles = torch.randn(9, ROPE_DIM // 2, generator=rng)
    spec = LatentRotarySpec(torch.cat((angles.cos(), angles.sin()), -1), torch.randn(RANK, generator=rng), 1e-6)
    positions, slots = torch.tensor([5, 8, 2, 0, 1]), torch.tensor([6, -1, 1, 0, 7])
    found = []
    for kernel in (latent_rotary, reference.latent_rotary):
        own, cache = queries.clone(), torch.full((2, 1, 4, dim), -3.0, dtype=dtype)
        kernel(own, wide[:, dim:], cache, positions, slots, spec)
        found.append((own.float(), cache.float()))
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=bound, rtol=bound)


def test_heads_have_matrices_of_their_own():
    weight, x = torch.randn(3, 20, 12), torch.randn(5, 3, 16)[..., :12]
    assert torch.allclose(HeadLinear(weight)(x), torch.einsum("thi,hoi->tho", x, weight), atol=1e-5)
