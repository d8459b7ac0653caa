"""What families of models need beyond Llama, through the whole decoder."""

import pytest
import torch

from kernels.kernel_set import triton_kernels
from tests.engine.model.tiny import Runner, error, oracle, oracle_logits

TOKENS = torch.randint(97, (12,), generator=torch.Generator().manual_seed(6)).tolist()


# zero experts' rows of a scratch tensor hold whatever was there, and nobody reads what is made of it
@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
@pytest.mark.parametrize(
    "name",
    [
        "gemma2",
        "gemma3n",
        "gemma4",
        "gemma4 moe",
        "olmo2",
        "qwen3 moe",
        "longcat flash",
        "minimax",
        "kimi linear",
        "glm 5",
    ],
)
def test_triton_kernels_give_transformers_logits(name, tmp_path):
    model = oracle(name)
    model.save_pretrained(tmp_path)
    runner = Runner(tmp_path, block_size=16, kernels=triton_kernels(), max_model_len=16)
    out = torch.cat([runner.step([(0, 0, TOKENS[:11])]), runner.step([(0, 11, TOKENS[11:])])])
    assert error(out, oracle_logits(model, TOKENS)[10:]) < 1e-4
