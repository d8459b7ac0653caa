"""Checkpoints written as the hub's quantizers write them, against transformers with the numbers that they stand for."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoint.matrix import Shard
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.source import resolve
from engine.errors import ModelError
from kernels.kernel_set import load_kernels
from kernels.quantized_linear.reference import GroupQuantized
from tests.engine.model.tiny import CPU, Runner, error, oracle, oracle_logits

TOKENS = torch.randint(97, (40,), generator=torch.Generator().manual_seed(2)).tolist()
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def packed(codes, bits, dim):
    """Neighbours along `dim` into one int32, the first in the lowest bits."""
    many = 32 // bits
    parts = codes.long().unflatten(dim, (-1, many)).movedim(dim + 1 if dim >= 0 else dim, -1)
    words = (parts << torch.arange(0, 32, bits)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


class Rounded:
    """A matrix in groups of inputs: codes [O, I], zeros and scales [O, G]."""

    def __init__(self, weight, bits, group, symmetric):
        groups = weight.unflatten(1, (-1, group))
        most = (1 << bits) - 1
        low, high = groups.amin(-1), groups.amax(-1)
        if symmetric:
            high = torch.maximum(-low, high)
            low = -high
        self.scales = ((high - low) / most).half()
        middle = torch.full_like(low, 1 << bits - 1)
        self.zeros = middle if symmetric else (-low / self.scales.float()).round().clamp(1, most)
        codes = (groups / self.scales.float()[..., None] + self.zeros[..., None]).round().clamp(0, most)
        self.codes = codes.flatten(1)
        self.weight = ((codes - self.zeros[..., None]) * self.scales.float()[..., None]).flatten(1)


def gptq(weight, *, bits=4, symmetric=False, act_order=False, second_format=False):
    order = torch.randperm(weight.shape[1]) if act_order else torch.arange(weight.shape[1])
    rounded = Rounded(weight[:, order], bits, 32, symmetric)
    codes, dense, index = (torch.empty_like(weight) for _ in range(3))
    codes[:, order], dense[:, order] = rounded.codes, rounded.weight
    index = torch.empty(weight.shape[1], dtype=torch.int32)
    index[order] = (torch.arange(weight.shape[1]) // 32).int()
    return dense, {
        "qweight": packed(codes.T, bits, 0),
        "qzeros": packed((rounded.zeros - (0 if second_format else 1)).T, bits, 1),
        "scales": rounded.scales.T.contiguous(),
        "g_idx": index,
    }


def awq(weight):
    rounded = Rounded(weight, 4, 64, symmetric=False)

    def shuffled(codes):
        return packed(codes.T.unflatten(1, (-1, 8))[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].flatten(1), 4, 1)

    scales = rounded.scales.T.contiguous()
    return rounded.weight, {"qweight": shuffled(rounded.codes), "qzeros": shuffled(rounded.zeros), "scales": scales}


def compressed(weight, *, bits=4, symmetric=True):
    rounded = Rounded(weight, bits, 32, symmetric)
    tensors = {
        "weight_packed": packed(rounded.codes, bits, 1),
        "weight_scale": rounded.scales.bfloat16(),
        "weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = packed(rounded.zeros, bits, 0)
    groups = (rounded.codes.unflatten(1, (-1, 32)) - rounded.zeros[..., None]) * tensors["weight_scale"][..., None]
    return groups.float().flatten(1), tensors


def scaled(weight, name, scale, **more):
    """float8, each number times its scale."""
    wide = scale
    for dim in range(scale.dim()):
        wide = wide.repeat_interleave(-(-weight.shape[dim] // scale.shape[dim]), dim)
    wide = wide[: weight.shape[0], : weight.shape[1]] if scale.dim() else wide
    rounded = (weight / wide).to(torch.float8_e4m3fn)
    return rounded.float() * wide, {"weight": rounded, name: scale, **more}


def int8_of_rows(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scale).round().to(torch.int8)
    return rounded * scale, {"weight": rounded, "weight_scale": scale}


def float8_of_blocks(weight):
    blocks = -(-weight.shape[0] // 48), -(-weight.shape[1] // 48)
    return scaled(weight, "weight_scale_inv", torch.rand(blocks).clamp(min=0.1) * 0.01)


FORMS = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4}),
    "gptq symmetric": (lambda w: gptq(w, symmetric=True), {"quant_method": "gptq", "bits": 4, "sym": True}),
    "gptq act order": (lambda w: gptq(w, act_order=True), {"quant_method": "gptq", "bits": 4, "desc_act": True}),
    "gptq 8 bits": (lambda w: gptq(w, bits=8), {"quant_method": "gptq", "bits": 8}),
    "gptq_v2": (
        lambda w: gptq(w, second_format=True),
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
    ),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}),
    "compressed": (
        compressed,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
        },
    ),
    "compressed with zeros": (
        lambda w: compressed(w, symmetric=False),
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"num_bits": 4}, "format": "pack-quantized"}},
        },
    ),
    "compressed 8 bits with zeros": (
        lambda w: compressed(w, bits=8, symmetric=False),
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
        },
    ),
    "compressed int8": (
        int8_of_rows,
        {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
        },
    ),
    "compressed float8": (
        lambda w: scaled(w, "weight_scale", torch.rand(w.shape[0], 1) * 0.01 + 0.001),
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
        },
    ),
    "float8 of blocks": (float8_of_blocks, {"quant_method": "fp8", "weight_block_size": [48, 48]}),
    "float8 of modelopt": (
        lambda w: scaled(w, "weight_scale", torch.tensor(0.004), input_scale=torch.tensor(0.5)),
        {"quant_method": "modelopt", "quant_algo": "FP8"},
    ),
}
KEPT = {name for name in FORMS if name != "gptq act order" and "float8" not in name}


def write(model, folder, pack, config, change=lambda tensors: None):
    """Saves a model with its linear layers packed; the model has the numbers that were left of them from then on."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name, weight in list(tensors.items()):
        if ".layers." in name and weight.dim() == 2:
            dense, parts = pack(tensors.pop(name))
            model.get_parameter(name).data = dense
            tensors |= {f"{name.removesuffix('weight')}{part}": tensor for part, tensor in parts.items()}
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_quantized_checkpoint_gives_transformers_logits(form, tmp_path):
    model = oracle("llama whole groups")
    torch.manual_seed(0)
    write(model, tmp_path, *FORMS[form])
    expected = oracle_logits(model, TOKENS)
    assert error(Runner(tmp_path).logits(TOKENS, 1), expected) < 1e-4
    assert error(Runner(tmp_path, torch.bfloat16, 16).logits(TOKENS, 1), expected) < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_matrices_of_4_and_8_bits_stay_so_and_can_be_cut(form, tmp_path):
    model = oracle("llama whole groups")
    torch.manual_seed(0)
    files = resolve(str(write(model, tmp_path, *FORMS[form])))
    whole = model.get_parameter(Q_PROJ)

    def read(part=None):
        weights = open_weights(files, read_arch(files), torch.bfloat16, CPU, keeps_ints=True)
        return weights.take_matrix(Q_PROJ, 64, 64, part=part)

    matrix = read()
    assert isinstance(matrix, GroupQuantized) == (form in KEPT)
    for found, expected in (
        (matrix, whole),
        (read(Shard(0, 16, 48)), whole[16:48]),
        (read(Shard(1, 32, 64)), whole[:, 32:]),
    ):
        dense = found.dense() if isinstance(found, GroupQuantized) else found.float()
        assert error(dense, expected) < (1e-6 if isinstance(found, GroupQuantized) else 1e-2)


def test_biases_of_zeros_are_passed_over_and_others_are_not(tmp_path):
    name = "model.layers.1.mlp.up_proj.bias"
    model = oracle("llama whole groups")
    write(model, tmp_path, *FORMS["gptq"], lambda tensors: tensors.update({name: torch.zeros(128)}))
    assert error(Runner(tmp_path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4
    write(model, tmp_path, *FORMS["gptq"], lambda tensors: tensors.update({name: torch.ones(128)}))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.bias"):
        Runner(tmp_path)


def test_what_is_missing_of_a_packed_matrix_is_named(tmp_path):
    write(
        oracle("llama whole groups"),
        tmp_path,
        *FORMS["awq"],
        lambda tensors: tensors.pop("model.layers.2.mlp.down_proj.scales"),
    )
    with pytest.raises(ModelError, match=r"lack model\.layers\.2\.mlp\.down_proj\.scales"):
        Runner(tmp_path)


def test_bfloat16_uses_a_kernel_of_4_bits_where_there_is_one(tmp_path):
    kernels = load_kernels(CPU, torch.bfloat16)
    if kernels.quantized_linear is None:
        pytest.skip("needs a C compiler and a CPU with avx512_bf16")
    model = oracle("llama whole groups")
    write(model, tmp_path, *FORMS["awq"])
    kept, dequantized = (
        Runner(tmp_path, torch.bfloat16, 16, keeps_ints=keeps).logits(TOKENS, 1) for keeps in (True, False)
    )
    exact = oracle_logits(model, TOKENS)
    assert error(kept, exact) < error(dequantized, exact)
