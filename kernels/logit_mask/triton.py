"""Logit masks and bias in Triton."""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import measured

__all__ = ["BLOCK_E", "add_bias", "allow_bits", "allow_only", "forbid", "launch", "load_entries"]

BLOCK_E = 256  # entries of one program


def allow_bits(logits_RV: Tensor, bits_RW: Tensor) -> Tensor:
    logits_RV, bits_RW = logits_RV.contiguous(), bits_RW.contiguous()
    num_rows, vocab_size = logits_RV.shape
    out_RV = torch.empty_like(logits_RV)
    if num_rows:
        config = launch(vocab_size, logits_RV.device)
        grid = num_rows, triton.cdiv(vocab_size, config["BLOCK_V"])
        _allow_bits[grid](logits_RV, bits_RW, out_RV, V=vocab_size, W=bits_RW.shape[1], **config)
    return out_RV


def allow_only(logits_RV: Tensor, limited_R: Tensor, rows_E: Tensor, tokens_E: Tensor) -> Tensor:
    logits_RV = logits_RV.contiguous()
    num_rows, vocab_size = logits_RV.shape
    out_RV = torch.empty_like(logits_RV)
    if num_rows:
        config = launch(vocab_size, logits_RV.device)
        grid = num_rows, triton.cdiv(vocab_size, config["BLOCK_V"])
        _forbid_rows[grid](logits_RV, limited_R, out_RV, V=vocab_size, **config)
    if num_entries := rows_E.shape[0]:
        _copy_entries[triton.cdiv(num_entries, BLOCK_E),](
            logits_RV, rows_E, tokens_E, out_RV, num_entries, V=vocab_size, BLOCK_E=BLOCK_E
        )
    return out_RV


def forbid(logits_RV: Tensor, rows_E: Tensor, tokens_E: Tensor) -> Tensor:
    out_RV = logits_RV.clone(memory_format=torch.contiguous_format)
    if num_entries := rows_E.shape[0]:
        _forbid_entries[triton.cdiv(num_entries, BLOCK_E),](
            rows_E, tokens_E, out_RV, num_entries, V=out_RV.shape[1], BLOCK_E=BLOCK_E
        )
    return out_RV


def add_bias(logits_RV: Tensor, rows_E: Tensor, tokens_E: Tensor, bias_E: Tensor) -> Tensor:
    out_RV = logits_RV.clone(memory_format=torch.contiguous_format)
    if num_entries := rows_E.shape[0]:
        _add_to_entries[triton.cdiv(num_entries, BLOCK_E),](
            rows_E, tokens_E, bias_E, out_RV, num_entries, V=out_RV.shape[1], BLOCK_E=BLOCK_E
        )
    return out_RV


def launch(vocab_size: int, device: torch.device) -> dict[str, int]:
    """Of what looks at every logit."""
    config = {"BLOCK_V": 4096, "num_warps": 4, "num_stages": 3}
    return {**config, **measured(__file__, device).get(f"V={vocab_size}", {})}


@triton.jit
def load_entries(rows, tokens, num_entries, V: tl.constexpr, BLOCK_E: tl.constexpr):
    """This program's entries, which of them there are, their rows and where their logits stand."""
    entry = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    there = entry < num_entries
    row = tl.load(rows + entry, mask=there, other=0)
    return entry, there, row, row * V + tl.load(tokens + entry, mask=there, other=0)


@triton.jit
def _allow_bits(logits, bits, out, V: tl.constexpr, W: tl.constexpr, BLOCK_V: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    word = tl.load(bits + row * W + token // 32, mask=token < V, other=0)
    logit = tl.load(logits + row * V + token, mask=token < V, other=0.0)
    allowed = ((word >> (token % 32)) & 1) != 0
    tl.store(out + row * V + token, tl.where(allowed, logit, -float("inf")), mask=token < V)


@triton.jit
def _forbid_rows(logits, limited, out, V: tl.constexpr, BLOCK_V: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    is_free = tl.load(limited + row) == 0
    logit = tl.load(logits + row * V + token, mask=(token < V) & is_free, other=-float("inf"))
    tl.store(out + row * V + token, logit, mask=token < V)


@triton.jit(do_not_specialize=["num_entries"])
def _copy_entries(logits, rows, tokens, out, num_entries, V: tl.constexpr, BLOCK_E: tl.constexpr):
    _, there, _, at = load_entries(rows, tokens, num_entries, V, BLOCK_E)
    tl.store(out + at, tl.load(logits + at, mask=there), mask=there)


@triton.jit(do_not_specialize=["num_entries"])
def _forbid_entries(rows, tokens, out, num_entries, V: tl.constexpr, BLOCK_E: tl.constexpr):
    _, there, _, at = load_entries(rows, tokens, num_entries, V, BLOCK_E)
    tl.store(out + at, -float("inf"), mask=there)


@triton.jit(do_not_specialize=["num_entries"])
def _add_to_entries(rows, tokens, bias, out, num_entries, V: tl.constexpr, BLOCK_E: tl.constexpr):
    entry, there, _, at = load_entries(rows, tokens, num_entries, V, BLOCK_E)
    tl.store(out + at, tl.load(out + at, mask=there) + tl.load(bias + entry, mask=there), mask=there)
