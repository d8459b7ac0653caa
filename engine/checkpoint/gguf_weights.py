"""Weights of a GGUF file under hub names, in the hub's row order, dequantized or group-quantized."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import gguf
import msgspec
import numpy as np
import torch
from torch import Tensor

from engine.arch.gguf import GGUF_FAMILIES
from engine.arch.model_arch import ModelArch
from engine.checkpoint.gguf_file import TensorInfo, read_index
from engine.checkpoint.gguf_group_quantized import INTS, read_group_quantized
from engine.checkpoint.gguf_heads import hub_columns, hub_rows
from engine.checkpoint.layer_names import layer_index
from engine.checkpoint.matrix import Matrix, cut, select_columns, select_rows
from engine.checkpoint.shard import Shard
from engine.errors import ModelError

__all__ = ["GgufSource"]

WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "token_embd_norm.weight": "model.norm.weight",  # LFM2's output norm has this name
    "output_norm.bias": "model.norm.bias",
    "output.weight": "lm_head.weight",
    "output.bias": "lm_head.bias",
    "per_layer_token_embd.weight": "model.embed_tokens_per_layer.weight",
    "per_layer_model_proj.weight": "model.per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": "model.per_layer_projection_norm.weight",
    "rope_freqs.weight": "rope_freqs.weight",  # divisors of the rotary frequencies; the hub has them in its config
}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_k_b": "self_attn.k_b_proj",
    "attn_v_b": "self_attn.v_b_proj",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_experts_gate",
    "ssm_in": "linear_attn.in_proj_qkvz",
    "ssm_ba": "linear_attn.in_proj_ba",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
    # of these the kind is part of the name
    "attn_sinks.weight": "self_attn.sinks",
    "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
}
# the matrices of an expert in a stack of all experts, one after the other
EXPERTS = {
    "ffn_gate_exps": ("gate_proj",),
    "ffn_up_exps": ("up_proj",),
    "ffn_gate_up_exps": ("gate_proj", "up_proj"),
    "ffn_down_exps": ("down_proj",),
}
STACKS = {"altup_proj": "model.altup_projections", "altup_unembd_proj": "model.altup_unembed_projections"}
CHUNK_BLOCKS = 65_536  # quantization blocks dequantized at once; bounds the scratch memory


class GgufSource:
    def __init__(self, path: Path, arch: ModelArch) -> None:
        self._path = path
        self._arch = arch
        pairs, infos = read_index(path)
        family = GGUF_FAMILIES[pairs["general.architecture"]]
        in_layer = IN_LAYER | dict(family.names)
        ours = {_hub_name(one.name, in_layer): one for info in infos for one in _unstacked(info)}
        self._infos = {name: msgspec.structs.replace(info, shape=_hub_shape(name, info)) for name, info in ours.items()}
        self._family = family

    def names(self) -> set[str]:
        return set(self._infos)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._infos[name].shape)

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        """A quantized tensor is dequantized whole, then cut: its blocks may cross the cut."""
        info = self._infos[name]
        tensor = torch.from_numpy(_dequantized(self._path, info)).view(info.shape)
        rows, columns = self._hub_order(name)
        tensor = tensor if rows is None else tensor[rows]
        whole = cut(tensor if columns is None else tensor[:, columns], part)
        assert isinstance(whole, Tensor)
        return (-whole).log() if name.endswith(".A_log") else whole  # files have -exp of it

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        info = self._infos[name]
        if info.type not in INTS:
            return self.read(name, part)
        matrix: Matrix = read_group_quantized(info.type, _bytes(self._path, info), info.shape)
        rows, columns = self._hub_order(name)
        matrix = matrix if rows is None else select_rows(matrix, rows)
        return cut(matrix if columns is None else select_columns(matrix, columns), part)

    def _hub_order(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """The file's rows and columns in the hub's order; None: they are in that order."""
        index = layer_index(name)
        if index is None or index >= self._arch.num_layers:
            return None, None
        mixer, part = self._arch.layers[index].mixer, name.removeprefix(f"model.layers.{index}.")
        rows = hub_rows(part, self.shape(name)[0], mixer, self._family)
        return rows, hub_columns(part, mixer, self._family)


def _hub_name(name: str, in_layer: Mapping[str, str]) -> str:
    if name in WHOLE:
        return WHOLE[name]
    match name.split("."):
        case ["blk", layer, "nextn", *parts]:  # for multi-token prediction
            return f"model.layers.{layer}.nextn.{'.'.join(parts)}"
        case ["blk", layer, *parts] if ".".join(parts) in in_layer:
            return f"model.layers.{layer}.{in_layer['.'.join(parts)]}"
        case ["blk", layer, *parts, kind] if ".".join(parts) in in_layer:
            return f"model.layers.{layer}.{in_layer['.'.join(parts)]}.{kind}"
    return name  # unknown: Weights.finish reports it as unused


def _hub_shape(name: str, info: TensorInfo) -> tuple[int, ...]:
    """Files leave out dimensions of size one, or have one more."""
    if name.endswith((".conv.conv.weight", ".conv1d.weight")) and len(info.shape) == 2:
        return (info.shape[0], 1, info.shape[1])
    if name.endswith("_conv1d.weight"):
        return (prod(info.shape[:-1]), 1, info.shape[-1])
    if name.endswith("_experts_gate.weight") and len(info.shape) == 1:
        return (1, *info.shape)
    if name.endswith((".A_log", ".mamba.D", ".mamba.norm.weight")):
        return (prod(info.shape),)
    return info.shape


def _unstacked(info: TensorInfo) -> list[TensorInfo]:
    """A tensor of all experts as one tensor per expert and matrix; other stacks as one per matrix."""
    match info.name.split("."):
        case ["blk", layer, part, kind] if part in EXPERTS and len(info.shape) == (3 if kind == "weight" else 2):
            at, matrices = f"model.layers.{layer}.mlp.experts", EXPERTS[part]
            return _cut_up(info, [f"{at}.{e}.{one}.{kind}" for e in range(info.shape[0]) for one in matrices])
        case [part, kind] if part in STACKS:
            return _cut_up(info, [f"{STACKS[part]}.{index}.{kind}" for index in range(info.shape[0])])
    return [info]


def _cut_up(info: TensorInfo, names: list[str]) -> list[TensorInfo]:
    """Equal parts of a stack, in order."""
    rows, each = info.shape[0] * info.shape[1] // len(names), info.num_bytes // len(names)
    shape = (rows, *info.shape[2:])
    return [TensorInfo(name, shape, info.type, info.offset + at * each, each) for at, name in enumerate(names)]


def _bytes(path: Path, info: TensorInfo) -> np.ndarray:
    data = np.fromfile(path, np.uint8, info.num_bytes, offset=info.offset)
    if data.size != info.num_bytes:
        raise ModelError(f"{path}: the file is cut off, tensor {info.name} lies beyond its end")
    return data


def _dequantized(path: Path, info: TensorInfo) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[info.type]
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = _bytes(path, info).reshape(-1, block_bytes)
    chunks = [
        gguf.quants.dequantize(blocks[start : start + CHUNK_BLOCKS].reshape(1, -1), kind).reshape(-1)
        for start in range(0, len(blocks), CHUNK_BLOCKS)
    ]
    return np.concatenate(chunks)
