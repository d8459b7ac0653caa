"""Sampling in Triton, for fp32 logits. Uniform numbers are the reference's, bit for bit; logarithms the device's."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["choose", "gumbel_noise", "launch"]

BLOCK_V = 1024  # tokens of one program of noise


def choose(logits_RV: Tensor, greedy_R: Tensor, seeds_R: Tensor, positions_R: Tensor) -> Tensor:
    logits_RV = logits_RV.contiguous()
    num_rows, vocab_size = logits_RV.shape
    config = launch(vocab_size, logits_RV.device)
    num_chunks = triton.cdiv(vocab_size, config["CHUNK_V"])
    best_RC = torch.empty((num_rows, num_chunks), dtype=torch.float32, device=logits_RV.device)
    tokens_RC = torch.empty((num_rows, num_chunks), dtype=torch.int64, device=logits_RV.device)
    out_R = torch.empty(num_rows, dtype=torch.int64, device=logits_RV.device)
    if num_rows:
        _best_of_chunk[num_rows, num_chunks](
            logits_RV, greedy_R, seeds_R, positions_R, best_RC, tokens_RC, V=vocab_size, **config
        )
        _best_of_row[num_rows,](
            best_RC, tokens_RC, out_R, CHUNKS=num_chunks, BLOCK_C=triton.next_power_of_2(num_chunks)
        )
    return out_R


def launch(vocab_size: int, device: torch.device) -> dict[str, int]:
    """A program chooses among CHUNK_V tokens, BLOCK_V at once."""
    config = {"BLOCK_V": 1024, "CHUNK_V": 4096, "num_warps": 4, "num_stages": 3}
    return {**config, **measured(__file__, device).get(f"choose V={vocab_size}", {})}


def gumbel_noise(seeds_R: Tensor, positions_R: Tensor, num_tokens: int) -> Tensor:
    out_RV = torch.empty((seeds_R.shape[0], num_tokens), dtype=torch.float32, device=seeds_R.device)
    grid = seeds_R.shape[0], triton.cdiv(num_tokens, BLOCK_V)
    _write_noise[grid](seeds_R, positions_R, out_RV, V=num_tokens, BLOCK_V=BLOCK_V)
    return out_RV


@triton.jit
def _mix32(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _mix64(x):
    x = x + 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _uniform(seed, position, token):
    """In (0, 1), fp32, of int64 seed and position and int32 tokens."""
    key = _mix64(_mix64(seed.to(tl.uint64)) + position.to(tl.uint64))
    hashed = token.to(tl.uint32) * 0x9E3779B9 + key.to(tl.uint32)
    hashed = _mix32(_mix32(hashed) ^ (key >> 32).to(tl.uint32))
    uniform = (hashed.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    return tl.minimum(uniform.to(tl.float32), 0.99999994)


@triton.jit
def _gumbel(uniform):
    """-log(-log(1 - u)). The rounding of 1 - u, which u below 2^-24 vanish in, is divided out again."""
    rest = 1.0 - uniform
    lost = rest == 1.0
    exponential = tl.where(lost, uniform, -tl.log(rest) * (uniform / tl.where(lost, 1.0, 1.0 - rest)))
    return -tl.log(exponential)


@triton.jit
def _write_noise(seeds, positions, out, V: tl.constexpr, BLOCK_V: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    noise = _gumbel(_uniform(tl.load(seeds + row), tl.load(positions + row), token))
    tl.store(out + row * V + token, noise, mask=token < V)


@triton.jit
def _best_of_chunk(
    logits, greedy, seeds, positions, best_out, token_out, V: tl.constexpr, BLOCK_V: tl.constexpr, CHUNK_V: tl.constexpr
):
    """[row, chunk]: the largest sum of logit and noise, and its token; the lowest id among equals."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    is_greedy = tl.load(greedy + row) != 0
    seed = tl.load(seeds + row)
    position = tl.load(positions + row)
    best = tl.full([BLOCK_V], -float("inf"), tl.float32)
    best_token = chunk * CHUNK_V + tl.arange(0, BLOCK_V)
    for base in range(chunk * CHUNK_V, chunk * CHUNK_V + CHUNK_V, BLOCK_V):
        token = base + tl.arange(0, BLOCK_V)
        score = tl.load(logits + row * V + token, mask=token < V, other=-float("inf"))
        if not is_greedy:
            score += _gumbel(_uniform(seed, position, token))
        best_token = tl.where(score > best, token, best_token)
        best = tl.maximum(best, score)
    top = tl.max(best, 0)
    at = row * tl.num_programs(1) + chunk
    tl.store(best_out + at, top)
    tl.store(token_out + at, tl.min(tl.where(best == top, best_token, 0x7FFFFFFF), 0).to(tl.int64))


@triton.jit
def _best_of_row(best, tokens, out, CHUNKS: tl.constexpr, BLOCK_C: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, BLOCK_C)
    value = tl.load(best + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=-float("inf"))
    token = tl.load(tokens + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=0x7FFFFFFF)
    tl.store(out + row, tl.min(tl.where(value == tl.max(value, 0), token, 0x7FFFFFFF), 0))
