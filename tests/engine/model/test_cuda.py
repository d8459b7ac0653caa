"""Every family on a GPU, with the Triton kernels: logits of the CPU, in chunks and single tokens."""

import pytest
import torch
import transformers

from kernels.kernel_set import triton_kernels
from tests.engine.model.tiny import Runner, error, oracle
from tests.engine.model.tiny_families import FAMILIES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TOKENS = torch.randint(97, (50,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_gives_the_logits_of_a_cpu(name, deterministic, tmp_path):
    if not hasattr(transformers, f"{FAMILIES[name][0]}ForCausalLM"):
        pytest.skip(f"transformers {transformers.__version__} has no {FAMILIES[name][0]}")
    oracle(name).bfloat16().save_pretrained(tmp_path)
    # of the CPU, which are transformers' (test_decoder.py); that may be older here
    exact = Runner(tmp_path, torch.float32, 16).logits(TOKENS, 1)
    theirs = Runner(tmp_path, torch.bfloat16, 16).logits(TOKENS, 1)
    kernels = triton_kernels(deterministic)
    runner = Runner(tmp_path, torch.bfloat16, 16, kernels, device=torch.device("cuda"))
    chunks, singles = runner.logits(TOKENS, 7).cpu(), runner.logits(TOKENS, 1).cpu()
    last = [min(start + 7, 50) - 1 for start in range(0, 50, 7)]
    for ours, rows in ((chunks, last), (singles, list(range(50)))):
        # experts: rounding may send a token to another one, so the best row counts
        found = ((ours - exact[rows]).norm(dim=1) / exact[rows].norm(dim=1)).min()
        known = ((theirs[rows] - exact[rows]).norm(dim=1) / exact[rows].norm(dim=1)).min()
        assert found < 2 * known + 5e-3
    assert error(chunks, singles[last]) < 0.5
    if deterministic:
        assert torch.equal(chunks, singles[last])
