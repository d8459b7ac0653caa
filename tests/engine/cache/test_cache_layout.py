"""Cache layouts: which layers share blocks, what a sequence takes, and that no page lies on another one."""

import msgspec
import pytest
import torch

from engine.arch.feed_forward_spec import DenseMlp
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import GatedDeltaNet, KimiDeltaAttention, LatentAttention, SelfAttention, TokenIndexer
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.cache.cache_layout import CacheGroup, CacheLayout, longest_sequence
from engine.cache.kv_cache import KVCache

WINDOW = 1024
FULL = SelfAttention(num_heads=32, num_kv_heads=16, head_dim=128, rope=None)
SLIDING = SelfAttention(num_heads=32, num_kv_heads=16, head_dim=128, rope=None, sliding_window=WINDOW)
CHUNKED = SelfAttention(num_heads=32, num_kv_heads=16, head_dim=128, rope=None, attention_chunk=8192)
WIDE = SelfAttention(num_heads=32, num_kv_heads=4, head_dim=512, rope=None)  # as Gemma 4: half a page of NARROW's
NARROW = SelfAttention(num_heads=32, num_kv_heads=16, head_dim=256, rope=None, sliding_window=WINDOW)
ODD = SelfAttention(num_heads=6, num_kv_heads=3, head_dim=64, rope=None)
STATE = GatedDeltaNet(num_k_heads=2, num_v_heads=4, k_dim=16, v_dim=16, kernel_size=4)
KDA = KimiDeltaAttention(num_heads=4, head_dim=16, kernel_size=4, gate_rank=16)


ROPE = Rope(10_000.0, 16)
INDEXER = TokenIndexer(num_heads=2, head_dim=32, top_k=64)
LATENT = LatentAttention(
    num_heads=4, q_rank=20, kv_rank=64, nope_dim=16, rope_dim=16, v_dim=16, rope=ROPE, indexer=INDEXER
)


def arch(*mixers, max_model_len: int = 32_768) -> ModelArch:
    layers = tuple(
        LayerSpec(mixer=mixer, feed_forward=DenseMlp(dim=64), norms="single" if mixer is None else "before")
        for mixer in mixers
    )
    return ModelArch(vocab_size=100, model_dim=64, layers=layers, max_model_len=max_model_len, norm_eps=1e-6)


def pattern(full, sliding, num_layers: int, every: int):
    return [full if index % every == every - 1 else sliding for index in range(num_layers)]


def test_layers_of_one_kind_are_one_group() -> None:
    layout = CacheLayout.of(arch(*[FULL] * 4), 16)
    assert layout.groups == (CacheGroup((0, 1, 2, 3)),)
    assert layout.block_bytes(2) == 4 * 2 * 16 * 16 * 128 * 2
    windows = CacheLayout.of(arch(*[SLIDING] * 4), 16)
    assert windows.groups == (CacheGroup((0, 1, 2, 3), window=WINDOW),)


def test_gemma_3_27b_takes_a_fifth_of_what_it_took_when_all_layers_kept_all() -> None:
    layout = CacheLayout.of(arch(*pattern(FULL, SLIDING, 62, 6)), 16)
    assert [group.keeps_all for group in layout.groups] == [True, *[False] * 6]
    assert sorted(layer for group in layout.groups for layer in group.layers) == list(range(62))
    everything = 62 * 2 * 16 * 128 * 2 * 32_768
    ours = layout.num_blocks(32_768) * layout.block_bytes(2)
    assert (round(everything / 2**30, 1), round(ours / 2**30, 1)) == (15.5, 3.0)


def test_layers_that_share_an_indexer_share_blocks_too() -> None:
    reader = msgspec.structs.replace(LATENT, index_from=0)
    layout = CacheLayout.of(arch(LATENT, reader, reader, LATENT), 16)
    assert layout.groups == (CacheGroup((0, 1, 2, 3)),)
    assert layout.block_bytes(2) == 4 * 16 * (64 + 16 + 32) * 2


@pytest.mark.parametrize("before", [(), (FULL,), (msgspec.structs.replace(LATENT, indexer=None),)])
def test_the_tokens_that_a_layer_reads_are_chosen_by_an_earlier_one(before) -> None:
    with pytest.raises(ValueError, match="takes the tokens that layer 0 chooses, which does not"):
        arch(*before, msgspec.structs.replace(LATENT, index_from=0))


def test_a_window_that_no_sequence_outgrows_is_none() -> None:
    layout = CacheLayout.of(arch(*pattern(FULL, SLIDING, 12, 2)), 16, max_model_len=WINDOW)
    assert layout.groups == (CacheGroup(tuple(range(12))),)


def test_where_windows_hardly_save_anything_all_layers_are_one_group() -> None:
    layout = CacheLayout.of(arch(*pattern(FULL, SLIDING, 12, 2)), 16, max_model_len=WINDOW + 4)
    assert layout.groups == (CacheGroup(tuple(range(12))),)


def test_chunks_are_kept_from_the_last_border_on() -> None:
    (group,) = CacheLayout.of(arch(*[CHUNKED] * 3), 16).groups
    assert [group.first_seen(at) for at in (0, 8191, 8192, 20_000)] == [0, 0, 8192, 16_384]
    assert group.num_blocks(100_000, 1, 16) == 8192 // 16


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 33])
@pytest.mark.parametrize("step_tokens", [1, 3, 16, 40])
def test_a_window_takes_no_more_blocks_than_it_says(window: int, step_tokens: int) -> None:
    group = CacheGroup(window=window)
    most = max((start + step_tokens - 1) // 16 - group.first_seen(start) // 16 + 1 for start in range(500))
    assert group.num_blocks(1000, step_tokens, 16) == most


def test_the_longest_sequence_is_the_one_that_fits_in_every_group() -> None:
    groups = CacheGroup(), CacheGroup(window=32)
    for num_blocks in range(2, 60):
        length = longest_sequence(groups, num_blocks, 16, 10_000)
        for tokens, fits in ((length, True), (length + 1, False)):
            assert (sum(group.num_blocks(tokens, 16, 16) for group in groups) <= num_blocks) == fits
    assert longest_sequence(groups, 1000, 16, 500) == 500 and longest_sequence((CacheGroup(),), 3, 16, 500) == 48


@pytest.mark.parametrize(
    "mixers",
    [
        [FULL] * 3,
        pattern(FULL, SLIDING, 7, 3),
        pattern(WIDE, NARROW, 12, 6),
        pattern(WIDE, NARROW, 5, 2),
        [FULL, ODD, SLIDING, STATE],
        [FULL, STATE, KDA, None],
    ],
    ids=["one kind", "windows", "pages of two sizes", "an odd number", "three shapes", "two states"],
)
def test_no_page_lies_on_another_ones(mixers) -> None:
    """Each layer writes its mark into the blocks of its group; each block belongs to one group."""
    layout = CacheLayout.of(arch(*mixers), 4)
    num_groups = len(layout.groups)
    kv = KVCache(layout, 3 * num_groups, torch.float32, torch.device("cpu"), num_states=2)
    marks = {}
    for index, (pages, caches) in enumerate(zip(layout.pages, kv.layers, strict=True)):
        if pages is None:
            continue
        group = layout.groups[pages.group]
        assert index in group.layers
        for which, cache in enumerate(caches[: pages.spec.num_tensors]):
            assert cache.is_contiguous() and cache.shape[1:] == (pages.spec.num_heads, 4, pages.spec.dim)
            for block in range(pages.group, 3 * num_groups, num_groups):
                marks[cache, block * group.pages] = float(1000 * index + 100 * which + block)
    for (cache, row), mark in marks.items():
        cache[row] = mark
    assert all((cache[row] == mark).all() for (cache, row), mark in marks.items())


def test_a_block_is_copied_and_filled_with_all_its_pages() -> None:
    kv = KVCache(CacheLayout.of(arch(*pattern(WIDE, NARROW, 5, 2)), 4), 4, torch.float32, torch.device("cpu"))
    for block in range(4):
        kv.block(block).fill_(float(block))
    kv.copy([(1, 2), (2, 3)])
    assert (kv.block(3) == 1).all() and (kv.block(0) == 0).all()
    data = b"".join(page.tobytes() for page in kv.blocks.buffers(1))
    assert len(data) == kv.blocks.num_bytes
    kv.blocks.fill(0, data)
    assert (kv.block(0) == 1).all()
