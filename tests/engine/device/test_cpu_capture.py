"""Steps recorded on a CPU, against the same steps run as they are."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.device.cpu_capture import CpuCapture
from engine.device.cuda_capture import CaptureError
from engine.execution.load import load_executor
from kernels.kernel_set import KernelSet, load_kernels
from tests.engine.execution.test_cuda_graphs import answers
from tests.engine.parallel.test_ranks import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernels() -> KernelSet:
    kernels = load_kernels(CPU, torch.bfloat16)
    if kernels.recorder is None:
        pytest.skip("needs a C compiler, on x86-64 or AArch64")
    return kernels


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt_oss", "mixtral"])
def test_recorded_steps_give_the_same_bits(tmp_path: Path, kernels: KernelSet, family: str) -> None:
    source = tiny(tmp_path, family)
    found = []
    for eager in (True, False):
        engine = EngineConfig(dtype="bfloat16", enforce_eager=eager, cache=CacheConfig(num_blocks=256, block_size=4))
        executor = load_executor(ModelConfig(served_model_name="tiny", model=str(source), engine=engine))
        found.append(answers(executor))
        assert (executor._graphs is not None and len(executor._graphs.shapes) > 5) is not eager
    assert found[0] == found[1]


ONE_STEP = """
import sys
from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.engine import Engine
from engine.execution.load import load_executor
from engine.types import GenerateRequest, SamplingParams, TokenSpan
model = ModelConfig(model=sys.argv[1], engine=EngineConfig(cache=CacheConfig(num_blocks=64)))
executor = load_executor(model)
request = GenerateRequest(
    request_id="1", model=model.name, inputs=(TokenSpan((1, 2)),), sampling=SamplingParams(max_tokens=2)
)
assert len(list(Engine(executor, model.name).generate(request))) == 2 and executor._graphs.shapes
sys.exit("torch._dynamo" in sys.modules)
"""


def test_a_first_step_does_not_import_the_compiler_of_torch(tmp_path: Path, kernels: KernelSet) -> None:
    """It takes two seconds and 140 MB."""
    subprocess.run([sys.executable, "-c", ONE_STEP, str(tiny(tmp_path, "llama"))], check=True, timeout=100)


def test_each_number_of_threads_has_a_recording_with_the_same_bits(kernels: KernelSet) -> None:
    torch.manual_seed(1)
    linear = kernels.linear(torch.randn(192, 64).bfloat16())
    x_TI = torch.randn(5, 64).bfloat16()
    assert kernels.recorder is not None
    replay = CpuCapture(kernels.recorder)(lambda: linear(x_TI))
    for num_threads in (1, 2, 1):
        torch.set_num_threads(num_threads)
        x_TI.copy_(torch.randn(5, 64))
        replay(), replay()
        assert torch.equal(replay(), linear(x_TI))


def test_layers_side_by_side_are_recorded(kernels: KernelSet) -> None:
    """As matrices of mixed bits are stacked in files of Q4_K_M."""
    first, second = (kernels.linear(torch.randn(num_out, 64).bfloat16()) for num_out in (96, 33))
    x_TI = torch.randn(3, 64).bfloat16()

    def both() -> Tensor:
        return torch.cat([first(x_TI), second(x_TI)], dim=-1)

    assert kernels.recorder is not None
    replay = CpuCapture(kernels.recorder)(both)
    for _ in range(3):
        replay()
        x_TI.copy_(torch.randn(3, 64))
        assert torch.equal(replay(), both())


def test_memory_that_a_tensor_left_serves_the_next_one_and_no_other(kernels: KernelSet) -> None:
    """A chain of norms, each of which also needs what came two before it, as a view."""
    weight_M = torch.rand(32) + 0.5
    x_TM = torch.randn(3, 32).bfloat16()

    def chain() -> Tensor:
        older, newer = x_TM, kernels.add_rms_norm(x_TM, torch.zeros_like(x_TM, dtype=torch.float32), weight_M, 1e-5)
        for _ in range(6):
            residual = torch.zeros_like(older, dtype=torch.float32)
            kernels.add_rms_norm(older, residual, weight_M, 1e-5)
            older, newer = newer.flatten().view(3, 32), kernels.add_rms_norm(newer, residual, weight_M, 1e-5)
        return newer

    assert kernels.recorder is not None
    capture = CpuCapture(kernels.recorder)
    replays = [capture(chain), capture(chain)]
    for _ in range(3):
        x_TM.copy_(torch.randn(3, 32))
        for replay in replays:
            replay()
            assert torch.equal(replay(), chain())
    assert capture._pool.num_pieces <= 8, "nothing was used again"


def test_steps_of_all_sizes_share_memory(kernels: KernelSet) -> None:
    assert kernels.recorder is not None
    capture, weight_M = CpuCapture(kernels.recorder), torch.ones(64)

    def norm(num_rows: int) -> Tensor:
        x_TM = torch.ones(num_rows, 64).bfloat16()  # made before: no part of what is captured
        return capture(
            lambda: kernels.add_rms_norm(x_TM, torch.zeros_like(x_TM, dtype=torch.float32), weight_M, 1e-5)
        )()

    sums = [norm(num_rows).sum().item() for num_rows in range(1, 65)]
    assert sums == pytest.approx([64 * num_rows for num_rows in range(1, 65)])
    sizes = capture._pool._users
    assert sum(size * len(users) for size, users in sizes.items()) < 8 * 64 * 64 * 4, "each size has memory of its own"


@pytest.mark.parametrize(
    "run", [lambda x: x + 1, lambda x: x[torch.tensor([0])], lambda x: x.add_(1), lambda x: x.sum()]
)
def test_what_is_no_kernel_is_refused_and_leaves_the_process_usable(kernels: KernelSet, run: object) -> None:
    assert kernels.recorder is not None and callable(run)
    capture, x = CpuCapture(kernels.recorder), torch.ones(2, 4)
    with pytest.raises(CaptureError, match="aten"):
        capture(lambda: run(x))
    assert kernels.recorder.calls is None
    assert torch.equal(capture(lambda: torch.zeros_like(x))(), torch.zeros(2, 4))
