"""Orders of heads in which GGUF files differ from the hub.

q and k of some families have rows for interleaved RoPE:  a head's row 2 i + j is the hub's row j * D/2 + i.
Value heads of a gated delta net may be tiled, not grouped: the v-th of the V/K heads of key head k is at v * K + k, at
the hub at k * V/K + v.
"""

import torch
from torch import Tensor

from engine.arch.gguf_config import GgufFamily
from engine.arch.mixer_spec import GatedDeltaNet, Mixer, SelfAttention
from engine.errors import ModelError

__all__ = ["hub_columns", "hub_rows"]


def hub_rows(part: str, num_rows: int, mixer: Mixer | None, family: GgufFamily) -> Tensor | None:
    """part       name of a tensor without its layer
    num_rows   it has in the file

    The file's rows in the hub's order; None: they are in that order.
    """
    if family.permuted_rope and isinstance(mixer, SelfAttention):
        if part.startswith("self_attn.q_proj."):
            return _halves(num_rows, mixer.num_heads)
        if part.startswith("self_attn.k_proj."):
            return _halves(num_rows, mixer.num_kv_heads)
    if family.tiled_value_heads and isinstance(mixer, GatedDeltaNet):
        name = part.removeprefix("linear_attn.").split(".")[0]
        if name == "in_proj_z":
            return _grouped(mixer, mixer.v_dim)
        if name in ("in_proj_a", "in_proj_b", "A_log", "dt_bias"):
            return _grouped(mixer, 1)
        if name in ("in_proj_qkv", "conv1d"):
            num_keys = 2 * mixer.num_k_heads * mixer.k_dim
            return torch.cat([torch.arange(num_keys), num_keys + _grouped(mixer, mixer.v_dim)])
    return None


def hub_columns(part: str, mixer: Mixer | None, family: GgufFamily) -> Tensor | None:
    """As `hub_rows`, of a matrix that takes heads."""
    if family.tiled_value_heads and isinstance(mixer, GatedDeltaNet) and part.startswith("linear_attn.out_proj."):
        return _grouped(mixer, mixer.v_dim)
    return None


def _grouped(spec: GatedDeltaNet, head_dim: int) -> Tensor:
    """Where the hub's rows of all value heads lie in the file."""
    rows = torch.arange(spec.num_v_heads * head_dim)
    return rows.view(-1, spec.num_k_heads, head_dim).transpose(0, 1).flatten()


def _halves(num_rows: int, num_heads: int) -> Tensor:
    if num_rows % (2 * num_heads):
        raise ModelError(f"{num_rows} rows of q or k are not {num_heads} heads")
    return torch.arange(num_rows).view(num_heads, -1, 2).transpose(1, 2).flatten()
