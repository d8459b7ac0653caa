"""Attention tiles in Triton: a tile of query rows goes over keys and values in the blocks of one sequence.

Of each row three numbers are kept: the largest raw score, the sum of exponentials relative to it, and the same sum of
values. Maths is in fp32 and in powers of 2.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl

__all__ = ["LOG2_E", "attend", "exponent_factor", "first_scores", "head_scale", "logarithm"]

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def head_scale(scales, head):
    scale = 1.0
    if scales is not None:
        scale = tl.load(scales + head)
    return scale


@triton.jit
def exponent_factor(scale, SOFT_CAP: tl.constexpr):
    """What makes an exponent of 2 of a raw score: a product or, where scores are capped, a hyperbolic tangent."""
    return SOFT_CAP * LOG2_E if SOFT_CAP > 0 else scale * LOG2_E


@triton.jit
def _tanh(x):
    shrunk = tl.exp2(tl.abs(x) * (-2 * LOG2_E))
    return tl.where(x < 0, -1.0, 1.0) * ((1 - shrunk) / (1 + shrunk))


@triton.jit
def first_scores(sinks, head, inside, factor):
    """Rows that have seen a head's sink alone: the largest raw score, and the sum relative to it."""
    top = tl.full(head.shape, -float("inf"), tl.float32)
    total = tl.zeros(head.shape, tl.float32)
    if sinks is not None:
        top = tl.load(sinks + head, mask=inside, other=-float("inf")).to(tl.float32) * LOG2_E / factor
        total = tl.full(head.shape, 1.0, tl.float32)
    return top, total


@triton.jit
def _tile(
    base, stop, oldest, k_cache, v_cache, pages, head,
    MASKED: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, TMA: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Keys [D, N] and values [N, D] from `base` on. Of MASKED ones those before `oldest` need not be there, and values
    from `stop` on are 0, whatever the cache holds.
    """
    key = base + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    if TMA:
        row = (tl.load(pages + base // PAGE) * KV_HEADS + head) * PAGE + base % PAGE
        k = k_cache.load([row, 0]).T
        v = v_cache.load([row, 0])
        if MASKED:
            v = tl.where((key < stop)[:, None], v, tl.zeros([BLOCK_N, BLOCK_D], v.dtype))
    elif MASKED:
        there = (key >= oldest) & (key < stop)
        page = tl.load(pages + key // PAGE, mask=there, other=0).to(tl.int64)
        slot = ((page * KV_HEADS + head) * PAGE + key % PAGE) * D
        k = tl.load(k_cache + slot[None, :] + d[:, None], mask=there[None, :] & (d < D)[:, None], other=0.0)
        v = tl.load(v_cache + slot[:, None] + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)
    else:
        page = tl.load(pages + key // PAGE).to(tl.int64)
        slot = ((page * KV_HEADS + head) * PAGE + key % PAGE) * D
        if D < BLOCK_D:
            k = tl.load(k_cache + slot[None, :] + d[:, None], mask=(d < D)[:, None], other=0.0)
            v = tl.load(v_cache + slot[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
        else:
            k = tl.load(k_cache + slot[None, :] + d[:, None])
            v = tl.load(v_cache + slot[:, None] + d[None, :])
    return k, v


@triton.jit
def first_seen(position, WINDOW: tl.constexpr):
    """The first key that a query at a position sees. WINDOW 0 is no limit, less than 0 chunks of that size."""
    if WINDOW > 0:
        first = tl.maximum(0, position + 1 - WINDOW)
    elif WINDOW < 0:
        first = position // -WINDOW * -WINDOW
    else:
        first = position * 0
    return first


@triton.jit
def attend(
    q, acc, top, total, begin, end, stop, limit, k_cache, v_cache, pages, head, scale,
    MASKED: tl.constexpr, WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr,
    PAGE: tl.constexpr, TMA: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Adds keys [begin, end) to a tile's softmax: sums in acc and total, relative to the largest raw score, top.

    Keys from `stop` on are not there to be read. Row i sees keys up to limit[i], from first_seen on; without MASKED
    all rows see all keys. The factor on scores comes in where masked and unmasked tiles round alike.
    """
    factor = exponent_factor(scale, SOFT_CAP)
    oldest = first_seen(tl.min(limit, 0), WINDOW)
    for base in range(begin, end, BLOCK_N):
        key = base + tl.arange(0, BLOCK_N)
        k, v = _tile(
            base, stop, oldest, k_cache, v_cache, pages, head, MASKED, KV_HEADS, D, PAGE, TMA, BLOCK_N, BLOCK_D
        )
        v = v.to(q.dtype)
        score = tl.dot(q, k.to(q.dtype), input_precision="tf32x3")
        if SOFT_CAP > 0:
            score = _tanh(score * (scale / SOFT_CAP))
        if MASKED:
            seen = key[None, :] <= limit[:, None]
            if WINDOW:
                seen = seen & (key[None, :] >= first_seen(limit, WINDOW)[:, None])
            score = tl.where(seen, score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        ground = tl.where(new_top == -float("inf"), 0.0, new_top) * factor  # of rows that have seen nothing
        weight = tl.exp2(score * factor - ground[:, None])
        # 1 where the top stays, also if a product and a difference are rounded as one: unseen keys change nothing
        shrink = tl.exp2((top - tl.where(new_top == -float("inf"), 0.0, new_top)) * factor)
        total = total * shrink + tl.sum(weight, 1)
        acc = acc * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="tf32x3")
        top = new_top
    return acc, top, total


@triton.jit
def logarithm(top, total):
    """The natural logarithm of total * 2 ** top."""
    return (top + tl.log2(total)) * LN_2
