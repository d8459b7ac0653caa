import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from engine.errors import ModelError
from tests.engine.model.tiny import Runner, error, oracle, oracle_logits

TOKENS = torch.randint(97, (40,), generator=torch.Generator().manual_seed(2)).tolist()


def write_mxfp4(folder, change=lambda tensors: None, **config):
    """Random blocks for the experts' matrices; the model gets what transformers makes of them."""
    model = oracle("gpt oss")
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        num_experts, num_in, num_out = tensors.pop(name).shape
        blocks = torch.randint(256, (num_experts, num_out, num_in // 32, 16), dtype=torch.uint8)
        scales = torch.randint(122, 126, (num_experts, num_out, num_in // 32), dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        dense = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        model.get_parameter(name).data = dense
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    path = folder / "config.json"
    config = {"quantization_config": {"quant_method": "mxfp4"}, **config}
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return model


def test_experts_in_mxfp4_give_the_logits_of_what_they_stand_for(tmp_path):
    torch.manual_seed(0)
    model = write_mxfp4(tmp_path)
    assert error(Runner(tmp_path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4


@pytest.mark.parametrize("block", [16, 0])
def test_experts_in_float8_give_the_logits_of_what_they_stand_for(tmp_path, block):
    """In blocks of rows and columns, or (0) with one scale for each expert's matrix."""
    torch.manual_seed(0)
    model = oracle("mistral4")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    stacks = [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]
    for name in stacks:
        num_experts, num_out, num_in = tensors[name].shape
        shape = (num_experts, num_out // block, num_in // block) if block else (num_experts, 1, 1)
        scale = torch.rand(shape).clamp(min=0.1) * 0.01
        wide = scale.repeat_interleave(num_out // shape[1], 1).repeat_interleave(num_in // shape[2], 2)
        codes = (tensors[name].float() / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
        tensors |= {name: codes, f"{name}_scale_inv": scale, f"{name}_activation_scale": torch.ones(num_experts)}
        model.get_parameter(_own(model, name)).data = codes.float() * wide
    save_file(tensors, tmp_path / "model.safetensors")
    path = tmp_path / "config.json"
    quantization = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **quantization}))
    assert stacks
    assert error(Runner(tmp_path).logits(TOKENS, 40), oracle_logits(model, TOKENS)[-1:]) < 1e-4


def _own(model, name):
    """A checkpoint's name as the model has it."""
    return next(own for own, _ in model.named_parameters() if own.split("layers.")[-1] == name.split("layers.")[-1])


def test_a_missing_tensor_of_the_experts_is_named(tmp_path):
    write_mxfp4(tmp_path, lambda tensors: tensors.pop("model.layers.1.mlp.experts.down_proj_bias"))
    with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.experts\.0\.down_proj\.bias"):
        Runner(tmp_path)
    write_mxfp4(tmp_path, lambda tensors: tensors.pop("model.layers.1.mlp.experts.down_proj_scales"))
    with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.experts\.down_proj_scales"):
        Runner(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"swiglu_limit": 6.0}, "swiglu_limit 6.0"), ({"quantization_config": {"quant_method": "mxfp6"}}, "'mxfp6'")],
)
def test_what_is_not_supported_is_named(config, message, tmp_path):
    write_mxfp4(tmp_path, **config)
    with pytest.raises(ModelError, match=message):
        Runner(tmp_path)
