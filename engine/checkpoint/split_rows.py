"""Checkpoint matrices whose rows mix several projections, head by head, taken apart."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import GatedDeltaNet, LightningAttention, Mamba2, ParallelHeads, SelfAttention, ShortConv
from engine.arch.model_arch import ModelArch
from engine.checkpoint.layer_names import layer_index
from engine.checkpoint.matrix import Matrix, cut, select_rows
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource
from engine.errors import ModelError

__all__ = ["SplitRows"]


class _Mixed(NamedTuple):
    """`num_groups` groups of rows, in each the parts one after the other, of so many rows."""

    num_groups: int
    parts: Mapping[str, int]  # name of the projection -> rows of a group


class SplitRows:
    """Gives each projection a name of its own; other tensors pass unchanged.

    of two heads    q q g g | q q g g      becomes    q q q q    and    g g g g
    """

    def __init__(self, source: TensorSource, arch: ModelArch) -> None:
        self._source = source
        self._places: dict[str, tuple[str, Tensor]] = {}  # projection -> the mixed matrix, its rows there
        self._hidden: set[str] = set()
        names = source.names()
        for name in names:
            index = layer_index(name)
            if index is None or index >= len(arch.layers):
                continue
            for stem, mixed in _mixed_rows(arch.layers[index]).items():
                at = f"model.layers.{index}"
                if any(f"{at}.{part}.weight" in names for part in mixed.parts if part != stem):
                    continue  # they have tensors of their own
                for kind in ("weight", "bias"):
                    if name == f"{at}.{stem}.{kind}":
                        self._split(name, at, kind, mixed)

    def _split(self, name: str, at: str, kind: str, mixed: _Mixed) -> None:
        width = sum(mixed.parts.values())
        found = self._source.shape(name)
        if found[0] != mixed.num_groups * width:
            raise ModelError(
                f"{name} has the shape {list(found)}, the model's config says {mixed.num_groups * width} rows"
            )
        self._hidden.add(name)
        rows, start = torch.arange(found[0]).view(mixed.num_groups, width), 0
        for part, count in mixed.parts.items():
            self._places[f"{at}.{part}.{kind}"] = name, rows[:, start : start + count].flatten()
            start += count

    def names(self) -> set[str]:
        return self._source.names() - self._hidden | set(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._places:
            return self._source.shape(name)
        mixed, rows = self._places[name]
        return (len(rows), *self._source.shape(mixed)[1:])

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        if name not in self._places:
            return self._source.read(name, part)
        mixed, rows = self._places[name]
        own = cut(self._source.read(mixed)[rows], part)
        assert isinstance(own, Tensor)
        return own

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        if name not in self._places:
            return self._source.read_matrix(name, part)
        mixed, rows = self._places[name]
        whole = self._source.read_matrix(mixed)
        return cut(select_rows(whole, rows), part)


def _mixed_rows(layer: LayerSpec) -> dict[str, _Mixed]:
    """A layer's matrices that have rows of several projections."""
    mixer = layer.mixer.mamba if isinstance(layer.mixer, ParallelHeads) else layer.mixer
    if isinstance(mixer, SelfAttention):
        q_dim, head_dim = mixer.num_heads // mixer.num_kv_heads * mixer.head_dim, mixer.head_dim
        parts = {"self_attn.q_proj": q_dim, "self_attn.k_proj": head_dim, "self_attn.v_proj": head_dim}
        mixed = {"self_attn.grouped_qkv_proj": _Mixed(mixer.num_kv_heads, parts)}
        if mixer.gate is not None and not mixer.gate.per_head:
            parts = {"self_attn.q_proj": head_dim, "self_attn.gate_proj": head_dim}
            mixed["self_attn.q_proj"] = _Mixed(mixer.num_heads, parts)
        return mixed
    if isinstance(mixer, LightningAttention):
        parts = {f"self_attn.{name}_proj": mixer.head_dim for name in "qkv"}
        return {"self_attn.qkv_proj": _Mixed(mixer.num_heads, parts)}
    if isinstance(mixer, ShortConv):
        return {"conv.in_proj": _Mixed(1, dict.fromkeys([f"conv.in_proj_{name}" for name in "bcx"], mixer.dim))}
    if isinstance(mixer, Mamba2):
        inner, shared = mixer.num_heads * mixer.head_dim, mixer.num_groups * mixer.state_dim
        widths = {"z": inner, "x": inner, "b": shared, "c": shared, "dt": mixer.num_heads}
        return {"mamba.in_proj": _Mixed(1, {f"mamba.in_proj_{name}": width for name, width in widths.items()})}
    if not isinstance(mixer, GatedDeltaNet):
        return {}
    at, groups = "linear_attn.in_proj", mixer.num_k_heads
    heads, k_dim = mixer.num_v_heads // groups, mixer.k_dim
    v_dim = heads * mixer.v_dim
    return {
        f"{at}_qkvz": _Mixed(groups, {f"{at}_q": k_dim, f"{at}_k": k_dim, f"{at}_v": v_dim, f"{at}_z": v_dim}),
        f"{at}_ba": _Mixed(groups, {f"{at}_b": heads, f"{at}_a": heads}),
        f"{at}_qkv": _Mixed(1, {f"{at}_q": groups * k_dim, f"{at}_k": groups * k_dim, f"{at}_v": groups * v_dim}),
    }
