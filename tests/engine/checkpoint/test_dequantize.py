"""Bit by bit what the formats say, computed number by number."""

import time

import pytest
import torch

from engine.checkpoint.dequantize import CPU_CHUNK, dequantize_float8, dequantize_mxfp4
from engine.checkpoint.shard import Shard
from engine.checkpoint.stacked_experts import SeparateExperts

CPU = torch.device("cpu")
NUMBERS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def plain_mxfp4(blocks, scales):
    codes = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).long()
    return torch.ldexp(NUMBERS[codes], scales[..., None].int() - 127).flatten(1)


def random_mxfp4(*shape):
    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(256, (*shape, 16), dtype=torch.uint8, generator=generator)
    return blocks, torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def bits(x):
    return x.contiguous().view(torch.int16 if x.element_size() == 2 else torch.int32)


def test_every_number_with_every_scale_is_exact():
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(256, 1, 1)
    scales = torch.arange(256, dtype=torch.uint8).view(256, 1).repeat(1, 16)
    found, expected = dequantize_mxfp4(blocks, scales), plain_mxfp4(blocks, scales)
    assert found.dtype == torch.bfloat16
    assert torch.equal(bits(found.float()), bits(expected))


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (2880, 90), (3, CPU_CHUNK // 32 + 1)])
def test_mxfp4_of_any_size_is_exact(shape):
    blocks, scales = random_mxfp4(*shape)
    assert torch.equal(bits(dequantize_mxfp4(blocks, scales).float()), bits(plain_mxfp4(blocks, scales)))


def test_a_matrix_of_gpt_oss_is_made_in_a_fraction_of_a_second():
    blocks, scales = random_mxfp4(2880, 90)
    dequantize_mxfp4(blocks, scales)
    began_s = time.perf_counter()
    dequantize_mxfp4(blocks, scales)
    assert time.perf_counter() - began_s < 0.5, "2880 x 2880 numbers took 1.1 s before"


def plain_float8(weight_OI, scale):
    weight_OI, scale = weight_OI.float(), scale.float()
    if scale.numel() == 1:
        return weight_OI * scale.view(())
    scale = scale.view(len(scale), -1)
    blocks = [-(-count // num) for count, num in zip(weight_OI.shape, scale.shape, strict=True)]
    wide = scale.repeat_interleave(blocks[0], 0).repeat_interleave(blocks[1], 1)
    return weight_OI * wide[: weight_OI.shape[0], : weight_OI.shape[1]]


@pytest.mark.parametrize("shape", [(1, 1), (70, 100), (CPU_CHUNK // 1000 + 9, 1000)])
@pytest.mark.parametrize("kind", ["all", "rows", "blocks"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_float8_is_rounded_once(shape, kind, dtype):
    generator = torch.Generator().manual_seed(3)
    num_out, num_in = shape
    scales = {"all": (1,), "rows": (num_out, 1), "blocks": (-(-num_out // 48), -(-num_in // 48))}[kind]
    scale = torch.rand(scales, generator=generator).to(torch.bfloat16 if kind == "rows" else torch.float32)
    weight = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    found = dequantize_float8(weight, scale, dtype)
    assert torch.equal(bits(found), bits(plain_float8(weight, scale).to(dtype)))


class Files:
    """Of one layer; counts what is read."""

    def __init__(self, tensors):
        self.tensors, self.read_names = tensors, []

    def names(self):
        return set(self.tensors)

    def shape(self, name):
        return tuple(self.tensors[name].shape)

    def read(self, name, part=None):
        self.read_names.append(name)
        tensor = self.tensors[name]
        return tensor if part is None else tensor.narrow(part.dim, part.start, part.stop - part.start)


def test_an_experts_stack_is_read_once_for_all_that_is_in_it():
    stem = "model.layers.0.mlp.experts"
    blocks, scales = random_mxfp4(2, 8, 3)
    files = Files({f"{stem}.gate_up_proj_blocks": blocks, f"{stem}.gate_up_proj_scales": scales})
    source = SeparateExperts(files, CPU, "interleaved")
    for expert in range(2):
        rows = plain_mxfp4(blocks[expert], scales[expert])
        part = Shard(0, 1, 3)
        gate = source.read(f"{stem}.{expert}.gate_proj.weight", part)
        up = source.read(f"{stem}.{expert}.up_proj.weight", part)
        assert torch.equal(gate.float(), rows[0::2][1:3])
        assert torch.equal(up.float(), rows[1::2][1:3])
        assert source._last is None, "memory of the device is held for nobody"
    assert sorted(files.read_names) == sorted(2 * [f"{stem}.gate_up_proj_blocks", f"{stem}.gate_up_proj_scales"])
    again = source.read(f"{stem}.0.up_proj.weight")
    assert torch.equal(again.float(), plain_mxfp4(blocks[0], scales[0])[1::2])
