"""Other people's kernels on the inputs of ours. One raises where what it needs is not there."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from scripts.bench.gpu.cases import Attention, AttentionShape, make_attention

__all__ = ["ATTENTION_PEERS", "Peer", "check_peers", "flashinfer_top_k"]

Peer = Callable[[list[Attention]], list[Callable[[], Tensor]]]  # of cases that are alike; the works give [T, H, D]
PAGE = 128  # FlexAttention's own block
WORKSPACE_BYTES = 256 << 20


def _sdpa(cases: list[Attention]) -> list[Callable[[], Tensor]]:
    """torch's, on keys and values gathered beforehand."""

    def work(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        causal = q.shape[2] > 1
        return _rows(scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True))

    return [partial(work, *_dense(case), case.scale) for case in cases]


def _flex_attention(cases: list[Attention]) -> list[Callable[[], Tensor]]:
    """torch's, on shuffled pages of its own block size. Whole pages are not masked."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    first = cases[0].q_THD
    torch.compiler.reset()  # it gives up on a function after eight shapes
    flex = torch.compile(flex_attention, dynamic=False) if first.is_cuda else _without_warning(flex_attention)
    num_seqs, length = len(cases[0].seq_lens_S), int(cases[0].seq_lens_S[0])
    pages = torch.randperm(num_seqs * -(-length // PAGE), device=first.device).view(num_seqs, -1)
    if first.shape[0] > num_seqs:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device=first.device.type)
    else:
        mask = _page_mask(pages, length)

    def work(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return _rows(flex(q, k, v, block_mask=mask, scale=scale, enable_gqa=True))

    works: list[Callable[[], Tensor]] = []
    for case in cases:
        q, k, v = _dense(case)
        if q.shape[2] == 1:
            k, v = (_paged(x, pages.flatten()) for x in (k, v))
        works.append(partial(work, q, k, v, case.scale))
    return works


def _page_mask(pages_SW: Tensor, length: int) -> Any:
    """For one query a sequence; pages_SW says where a sequence's pages stand among those of all."""
    from torch.nn.attention.flex_attention import BlockMask

    num_seqs, width = pages_SW.shape
    which = torch.empty_like(pages_SW.flatten())
    which[pages_SW.flatten()] = torch.arange(pages_SW.numel(), device=pages_SW.device)

    def is_there(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        page = which[j // PAGE] - b * width
        return (page >= 0) & (page * PAGE + j % PAGE < length)

    whole = pad(pages_SW[:, None, None], (0, pages_SW.numel() - width)).int()
    last = pad(pages_SW[:, None, None, -1:], (0, pages_SW.numel() - 1)).int()
    counts = torch.ones((num_seqs, 1, 1), dtype=torch.int32, device=pages_SW.device)
    lengths = 1, pages_SW.numel() * PAGE
    return BlockMask.from_kv_blocks(counts, last, counts * (width - 1), whole, PAGE, is_there, lengths)


def _flashinfer(cases: list[Attention]) -> list[Callable[[], Tensor]]:
    """On our own cache: its layout is FlashInfer's HND."""
    import flashinfer

    space = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=cases[0].q_THD.device)
    works: list[Callable[[], Tensor]] = []
    for case in cases:
        _, num_kv_heads, block_size, head_dim = case.k_cache.shape
        used = (case.seq_lens_S + block_size - 1) // block_size
        starts = pad(used.cumsum(0), (1, 0)).int()
        blocks = torch.cat([row[:count] for row, count in zip(case.block_table_SW, used.tolist(), strict=True)])
        last = (case.seq_lens_S - 1) % block_size + 1
        shape = case.q_THD.shape[1], num_kv_heads, head_dim, block_size
        options = {"q_data_type": case.q_THD.dtype, "kv_data_type": case.k_cache.dtype, "sm_scale": case.scale}
        if case.query_starts.diff().max() == 1:
            wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(space, "HND")
            wrapper.plan(starts, blocks, last, *shape, **options)
        else:
            wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(space, "HND")
            wrapper.plan(case.query_starts, starts, blocks, last, *shape, causal=True, **options)
        works.append(partial(wrapper.run, case.q_THD, (case.k_cache, case.v_cache)))
    return works


def flashinfer_top_k(logits_RV: Tensor, top_k_R: Tensor) -> Tensor:
    import flashinfer

    masked: Tensor = flashinfer.sampling.top_k_mask_logits(logits_RV, top_k_R.int())
    return masked


ATTENTION_PEERS: dict[str, Peer] = {
    "torch SDPA, no pages": _sdpa,
    "FlexAttention": _flex_attention,
    "FlashInfer": _flashinfer,
}


def check_peers(device: torch.device) -> Iterator[dict[str, Any]]:
    """Whether they compute the same attention. One that is not there does not fail."""
    for name, peer in ATTENTION_PEERS.items():
        for kind, lens, counts in (("decode", [256, 256], [1, 1]), ("prefill", [256], [256])):
            case = make_attention(AttentionShape(lens, counts, (8, 2), 64), torch.bfloat16, device)
            row: dict[str, Any] = {"name": f"peer, {name}", "shape": f"{kind}, lens {lens}", "dtype": "bfloat16"}
            try:
                out, expected = peer([case])[0]().double(), case.expected()[0]
            except Exception as error:  # of any kind: it is not ours
                yield {**row, "failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
                continue
            difference = ((out - expected).norm() / expected.norm()).item()
            yield {**row, "error": difference, "ok": difference < 1e-2}


def _dense(case: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """[batch, heads, tokens, head size] each, of sequences that are equally long."""
    num_seqs, length = len(case.seq_lens_S), int(case.seq_lens_S[0])
    q = case.q_THD.view(num_seqs, -1, *case.q_THD.shape[1:]).transpose(1, 2).contiguous()
    k, v = (
        cache[case.block_table_SW.long()].transpose(1, 2).flatten(2, 3)[:, :, :length].contiguous()
        for cache in (case.k_cache, case.v_cache)
    )
    return q, k, v


def _paged(x_BGLD: Tensor, order: Tensor) -> Tensor:
    """[1, G, pages * PAGE, D]: page p of all sequences stands at order[p]."""
    num_seqs, num_kv_heads, length, head_dim = x_BGLD.shape
    whole = pad(x_BGLD, (0, 0, 0, -length % PAGE))
    pages = whole.view(num_seqs, num_kv_heads, -1, PAGE, head_dim).transpose(0, 1).flatten(1, 2)
    out = torch.empty_like(pages)
    out[:, order] = pages
    return out.flatten(1, 2)[None]


def _rows(out_BHTD: Tensor) -> Tensor:
    return out_BHTD.transpose(1, 2).flatten(0, 1)


def _without_warning(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """FlexAttention advises to compile it, which takes half a minute on a CPU."""

    def quiet(*args: object, **options: object) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **options)

    return quiet
