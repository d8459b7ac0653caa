"""Nothing looks at a number on the device before a step's result is asked for, and what graphs record stays there.

Tensors are on torch's meta device, which has no numbers: whoever asks for one, or for a shape that depends on some
(`item`, `tolist`, `nonzero`, a mask as an index), raises, where a card would make the host wait.
"""

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("triton")

from engine.execution.cuda_graphs import CudaGraphs, LargestStep
from engine.execution.inline_executor import InlineExecutor
from engine.execution.warm_up import SAMPLING
from engine.model.cascade import CascadeThresholds
from engine.scheduling.scheduler_output import NewSequence, ScheduledSequence, SchedulerOutput
from engine.types import SamplingParams
from kernels.experts.reference import Expert
from kernels.kernel_set import triton_kernels
from scripts.bench.gpu.random_model import BLOCK_SIZE, TINY, RandomModel
from tests.aot.no_card import launches

META = torch.device("meta")
CASCADE = CascadeThresholds(((8, 256),))
ALL = msgspec.structs.replace(SAMPLING, logprob_token_ids=(3, 5))
GREEDY = SamplingParams(max_tokens=9, temperature=0.0)


class NothingFromTheHost(TorchDispatchMode):
    """Raises where an operation takes or makes a tensor of the host: a graph would copy from memory that is gone."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, made)):
            if isinstance(leaf, torch.Tensor) and leaf.device != META:
                raise RuntimeError(f"{function} has to do with the host")
        return made


def captured(run):
    """As a graph is recorded: once as it is, then under the eyes of NothingFromTheHost; there is no replay."""

    def replay():
        with NothingFromTheHost():
            return run()

    return replay


def executor_of(deterministic=False, four_bits=False):
    model = RandomModel(TINY, triton_kernels(deterministic), 64, torch.bfloat16, META, four_bits=four_bits)
    graphs = CudaGraphs(
        lambda batch: model.decoder.hidden(batch, model.kv),
        captured,
        LargestStep(80, 32),
        block_size=BLOCK_SIZE,
        device=META,
    )
    return InlineExecutor(model.loaded(), model.sampler, graphs, async_scheduling=True, cascade=CASCADE)


def start(seq_id, sampling):
    return NewSequence(seq_id, sampling, 1, (1, 2, 3), ())


@pytest.mark.parametrize("num_rows", [1, 20, 70])
@pytest.mark.parametrize(("deterministic", "four_bits"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("sampling", [GREEDY, ALL], ids=["greedy", "all stations"])
def test_steps_are_queued_without_looking_at_the_one_before(sampling, deterministic, four_bits, num_rows):
    executor = executor_of(deterministic, four_bits)
    blocks = (tuple(range(20)),)
    chunks = tuple(ScheduledSequence(s, 0, (1, 2, 3), blocks, True, scored=(2, 3)) for s in range(num_rows))
    decodes = tuple(ScheduledSequence(s, 3, (-1,), blocks, True) for s in range(num_rows))
    with launches():
        executor.launch_model(SchedulerOutput(0, chunks, tuple(start(s, sampling) for s in range(num_rows))))
        for step in range(1, 4):
            executor.sample_tokens()
            executor.launch_model(SchedulerOutput(step, decodes))
        sampling = executor.sample_tokens()
    assert sampling.tokens.device == META and sampling.tokens.shape == (num_rows,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        sampling.result()  # which is what waits
    executor.close()


def test_steps_with_shared_prefixes_and_chunks_are_queued_too():
    executor, blocks = executor_of(), (tuple(range(20)),)
    shared = [ScheduledSequence(s, 300, (1,), blocks, True) for s in range(9)]
    with launches() as found:
        executor.launch_model(SchedulerOutput(0, tuple(shared), tuple(start(s, GREEDY) for s in range(9))))
        executor.sample_tokens()
        executor.launch_model(
            SchedulerOutput(
                1, (*(replace_token(one) for one in shared), ScheduledSequence(9, 0, (4, 5), blocks, False))
            )
        )
        executor.sample_tokens()
    assert {"_shared", "_ragged"} <= {variant.name for variant in found}
    executor.close()


def replace_token(piece):
    return ScheduledSequence(piece.seq_id, piece.start + 1, (-1,), piece.blocks, True)


def test_blocks_are_copied_without_waiting():
    executor = executor_of()
    executor._kv.copy([(1, 2), (2, 3)])
    executor.close()


def test_experts_are_chosen_and_sorted_on_the_device():
    kernels = triton_kernels()
    with launches(), NothingFromTheHost():
        pair = [Expert(torch.empty(96, 32, device=META), torch.empty(32, 48, device=META)) for _ in range(4)]
        out = kernels.experts(pair)(
            torch.empty(7, 32, device=META), *kernels.route(torch.empty(7, 4, device=META), 2, True)
        )
    assert out.shape == (7, 32)


def test_a_look_at_the_device_is_seen():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.empty(3, device=META).tolist()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.empty(3, device=META)[torch.empty(3, dtype=torch.bool, device=META)]
    with pytest.raises(RuntimeError, match="has to do with the host"), NothingFromTheHost():
        torch.empty(3, device=META) + torch.tensor(1.0)
    with pytest.raises(RuntimeError, match="has to do with the host"), NothingFromTheHost():
        torch.tensor([1, 2]).to(META)
