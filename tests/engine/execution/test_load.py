import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from configs.schema import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine.engine import Engine
from engine.errors import ModelError
from engine.execution.load import cache_bytes_of, cascades, check_deterministic, load_executor
from engine.parallel.tensor_parallel import Collective, TensorParallel
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from kernels.kernel_set import triton_kernels
from kernels.native.compiler import find_compiler
from tests.engine.model.tiny import oracle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    oracle("llama3").save_pretrained(path)
    return path


def load(folder, **changes):
    config = EngineConfig(**{"device": "cpu", "num_threads": 1, **changes})
    return load_executor(ModelConfig(served_model_name="tiny", model=str(folder), engine=config))


def test_what_the_engine_needs_to_know_is_there(folder):
    executor = load(folder, max_model_len=100, cache=CacheConfig(block_size=8, num_blocks=30))
    assert (executor.vocab_size, executor.max_model_len) == (97, 100)
    assert (executor.block_size, executor.num_blocks) == (8, 30)


def test_the_cache_is_no_larger_than_all_sequences_can_use(folder):
    executor = load(folder, scheduler=SchedulerConfig(max_num_seqs=3))
    assert executor.num_blocks == 3 * 256 // 16


def test_cache_bytes_bound_the_cache(folder):
    block_bytes = 2 * 3 * 2 * 16 * 12 * 2  # k and v, layers, KV heads, slots, dim, bytes
    assert load(folder, cache=CacheConfig(kv_cache_memory_bytes=10 * block_bytes + 5)).num_blocks == 10
    with pytest.raises(ModelError, match="one block takes"):
        load(folder, cache=CacheConfig(kv_cache_memory_bytes=block_bytes - 1))


@pytest.mark.parametrize(
    ("others", "fraction", "left"),
    [
        (0, 0.9, 55),  # a tenth of the card stays free, CUDA's own gigabyte aside
        (0, 0.45, 20),
        (36, 0.45, 19),  # the card is another's to nearly half: less than a tenth would stay free
        (36, 0.9, 19),
        (60, 0.9, -5),
    ],
)
def test_a_gpu_may_be_shared(others, fraction, left):
    total, ours, context = 80 << 30, 16 << 30, 1 << 30
    free = total - ours - context - (others << 30)
    assert cache_bytes_of(free, total, ours, fraction) == pytest.approx(left << 30, abs=2)


def test_what_graphs_take_is_left_for_them():
    sizes = (63 << 30, 80 << 30, 16 << 30, 0.9)
    assert cache_bytes_of(*sizes, set_aside=2 << 30) == cache_bytes_of(*sizes) - (2 << 30)


def test_a_context_longer_than_the_models_is_refused(folder):
    with pytest.raises(ModelError, match="made for 256 tokens"):
        load(folder, max_model_len=257)


def test_odd_blocks_are_refused(folder):
    with pytest.raises(ModelError, match="must be even"):
        load(folder, cache=CacheConfig(block_size=7))


def test_without_a_compiler_the_engine_still_runs(folder, monkeypatch, caplog):
    sampling = SamplingParams(max_tokens=5, temperature=0.0)
    request = GenerateRequest(request_id="a", model="tiny", inputs=(TokenSpan((1, 2, 3)),), sampling=sampling)
    compiled = [chunk.tokens for chunk in Engine(load(folder), "tiny").generate(request)]
    monkeypatch.setenv("PATH", "")
    plain = [chunk.tokens for chunk in Engine(load(folder), "tiny").generate(request)]
    assert "no C compiler" in caplog.text
    assert len(plain) == len(compiled) == 5
    assert plain[0] == compiled[0]


def test_prefixes_are_read_at_once_on_a_gpu_that_need_not_be_deterministic():
    gpu = torch.device("cuda")
    assert cascades(EngineConfig(), gpu)
    assert not cascades(EngineConfig(), torch.device("cpu"))
    assert not cascades(EngineConfig(cascade_attention="off"), gpu)
    assert not cascades(EngineConfig(deterministic=True), gpu)


def test_the_time_of_each_part_is_logged(folder, caplog):
    with caplog.at_level(logging.INFO, logger="engine.execution.load"):
        load(folder)
    assert "tiny ready on cpu in" in caplog.text
    assert "weights" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_engine_generates_the_same_alone_and_in_a_crowd(folder, dtype):
    def request(i):
        sampling = SamplingParams(max_tokens=12, temperature=0.8 if i % 2 else 0.0, seed=i)
        return GenerateRequest(
            request_id=str(i), model="tiny", inputs=(TokenSpan(tuple(range(1 + i, 20 + 5 * i))),), sampling=sampling
        )

    crowd = Engine(
        load(folder, dtype=dtype), "tiny", EngineConfig(scheduler=SchedulerConfig(max_num_batched_tokens=40))
    )
    for i in range(5):
        crowd.submit(request(i))
    tokens = {str(i): [] for i in range(5)}
    while crowd.has_work:
        for chunk in crowd.step():
            tokens[chunk.request_id] += chunk.tokens
    alone = Engine(load(folder, dtype=dtype), "tiny")
    for i in range(5):
        assert [token for chunk in alone.generate(request(i)) for token in chunk.tokens] == tokens[str(i)]


def test_importing_the_engine_does_not_load_torch():
    code = "import sys, engine, engine.engine, engine.runtime.async_engine; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_dtype_that_cannot_be_deterministic_is_refused_where_that_is_asked_for(folder, dtype):
    with pytest.raises(ModelError, match=f"engine.deterministic .* {dtype}; set engine.dtype to bfloat16, or"):
        load(folder, dtype=dtype, deterministic=True)
    assert load(folder, dtype=dtype, deterministic=False).num_blocks == load(folder, dtype=dtype).num_blocks


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_deterministic_needs_a_compiler(folder, monkeypatch):
    assert load(folder, deterministic=True).num_blocks
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelError, match="engine.deterministic .* install one"):
        load(folder, deterministic=True)
    assert load(folder).num_blocks


def test_three_ranks_are_deterministic_only_where_they_add_in_order():
    kernels = triton_kernels(deterministic=True)
    for size, in_order in ((2, False), (3, True)):
        group = cast(Collective, SimpleNamespace(in_order=in_order))
        check_deterministic(kernels, torch.bfloat16, TensorParallel(0, size, group))
    group = cast(Collective, SimpleNamespace(in_order=False))
    with pytest.raises(ModelError, match="engine.deterministic .* tensor_parallel_size 3"):
        check_deterministic(kernels, torch.bfloat16, TensorParallel(0, 3, group))
