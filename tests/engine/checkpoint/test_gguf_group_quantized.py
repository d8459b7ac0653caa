import os

import gguf
import numpy as np
import pytest
import torch

from engine.checkpoint.gguf_group_quantized import INTS, read_group_quantized
from kernels.native.compiler import find_compiler
from kernels.native.instruction_set import cpu_flags
from kernels.quantized_linear import cpu
from tests.engine.checkpoint.test_gguf_weights import TOKENS, random_blocks, write
from tests.engine.model.tiny import Runner, error, oracle

COMPILER = find_compiler()
KEEPS_INTS = COMPILER is not None and cpu.build(COMPILER) is not None


@pytest.mark.parametrize("kind", INTS)
def test_integers_are_what_the_package_dequantizes(kind):
    blocks = random_blocks(gguf.GGMLQuantizationType[kind], 24 * 512)
    ints = read_group_quantized(kind, blocks.reshape(-1), (24, 512))
    expected = gguf.quants.dequantize(blocks.reshape(24, -1), gguf.GGMLQuantizationType[kind])
    least, most = (-16, 15) if kind == "Q5_0" else (0, 31) if kind.startswith("Q5") else (ints.least, None)
    assert ints.ints_OI.min() == least and ints.ints_OI.max() == (most or least + (1 << ints.bits) - 1)
    assert np.array_equal(ints.dense().numpy(), expected)


EXPERTS = [
    ("qwen3moe.expert_count", 4),
    ("qwen3moe.expert_used_count", 2),
    ("qwen3moe.expert_feed_forward_length", 64),
]


@pytest.fixture(scope="module", params=["llama", "phi3", "qwen3 moe"])
def quantized(request, tmp_path_factory):
    """A file of which q and k are of another type than v, or all three in one tensor, or a layer's experts, and its
    weights' exact logits."""
    model = oracle(f"{request.param} whole groups")
    family = request.param.replace(" ", "")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"

    def quantize(tensors):
        for name, (array, _) in tensors.items():
            if name.startswith("blk.") and array.ndim >= 2 and "gate_inp" not in name:
                kind = gguf.GGMLQuantizationType.Q4_0 if "attn_v" in name else gguf.GGMLQuantizationType.Q4_1
                tensors[name] = (gguf.quants.quantize(np.ascontiguousarray(array), kind), kind)

    write(model, path, family, quantize, EXPERTS if family == "qwen3moe" else ())
    rows = Runner(path)  # in float32: dequantized, nothing rounded
    return path, rows.logits(TOKENS, 1)


@pytest.mark.skipif(not KEEPS_INTS, reason="needs a C compiler")
def test_a_file_of_4_bits_gives_its_logits_with_less_rounding_than_widened(quantized, monkeypatch):
    add_flag(monkeypatch, "-DNO_AMX")
    path, exact = quantized
    kept, dequantized = Runner(path, torch.bfloat16, 16), Runner(path, torch.bfloat16, 16, keeps_ints=False)
    kept_error, widened_error = (error(one.logits(TOKENS, 1), exact) for one in (kept, dequantized))
    assert kept_error < widened_error < 0.1


@pytest.mark.skipif(not (KEEPS_INTS and "avx512_bf16" in cpu_flags()), reason="needs a C compiler and avx512_bf16")
def test_by_amx_tiles_a_file_of_4_bits_gives_the_same_logits_dequantized(quantized, monkeypatch):
    add_flag(monkeypatch, "-DEMULATED_AMX")
    kept, dequantized = (Runner(quantized[0], torch.bfloat16, 16, keeps_ints=keeps) for keeps in (True, False))
    assert torch.equal(kept.logits(TOKENS, 7), dequantized.logits(TOKENS, 7))


def add_flag(monkeypatch, flag):
    """For the C kernels that are built from now on."""
    monkeypatch.setenv("MANTA_CFLAGS", f"{os.environ.get('MANTA_CFLAGS', '')} {flag}")


@pytest.mark.skipif(not KEEPS_INTS, reason="needs a C compiler and a CPU with avx512_bf16")
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_change_nothing_in_a_model_of_4_bits(quantized, chunk):
    runner = Runner(quantized[0], torch.bfloat16, 16)
    last = [min(start + chunk, 40) - 1 for start in range(0, 40, chunk)]
    assert torch.equal(runner.logits(TOKENS, chunk), runner.logits(TOKENS, 1)[last])
