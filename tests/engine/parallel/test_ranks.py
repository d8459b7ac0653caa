"""Several ranks against one: the same greedy tokens, and no waiting for a rank that is gone."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.cache.host_tier import WAYS
from engine.cache.prefix_cache import hash_blocks, root_hash
from engine.engine import Engine
from engine.errors import ModelError
from engine.execution import tensor_parallel_executor
from engine.execution.load import load_executor
from engine.execution.tensor_parallel_executor import TensorParallelExecutor, WorkerPlacement, run_worker, start_driver
from engine.parallel import torch_group
from engine.parallel.rank_offload import RankOffloadingConnector
from engine.parallel.worker_commands import Rendezvous
from engine.scheduling.scheduler_output import ModelOutput
from engine.structured_output.grammar import Vocabulary
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from tests.engine.model.tiny import oracle

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 203,
    "max_position_embeddings": 256,
}


def tiny(folder: Path, family: str, **more: object) -> Path:
    torch.manual_seed(5)
    config = AutoConfig.for_model(family, **{**SIZES, **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(folder)
    return folder


def config_of(source: Path, size: int, dtype: str = "float32") -> ModelConfig:
    engine = EngineConfig(dtype=dtype, device="cpu", cache=CacheConfig(num_blocks=64))  # type: ignore[arg-type]
    return ModelConfig(served_model_name="tiny", model=str(source), tensor_parallel_size=size, engine=engine)


@contextmanager
def driving(
    model: ModelConfig, vocabulary: Vocabulary | None = None, start_method: str = "forkserver"
) -> Iterator[tuple[TensorParallelExecutor, list[BaseProcess]]]:
    """The fork server imports torch once for the ranks of all tests. Ranks of "spawn" have this test's environment."""
    context = multiprocessing.get_context(start_method)
    context.set_forkserver_preload(["engine.execution.tensor_parallel_executor"])
    processes: list[BaseProcess] = []

    def start(rank: int, rendezvous: Rendezvous) -> None:
        arguments = (model, rank, rendezvous)
        processes.append(context.Process(target=run_worker, args=arguments, daemon=True))  # type: ignore[attr-defined]
        processes[-1].start()

    executor = start_driver(model, WorkerPlacement("127.0.0.1", True, start), vocabulary)
    try:
        yield executor, processes
    finally:
        executor.close()
        for process in processes:
            process.join(10)
            assert process.exitcode is not None, "a rank outlived its replica"


def answers(engine: Engine) -> list[list[int]]:
    """Greedy, of prompts long and short, together and by chunks."""
    prompts = [[1, 2, 3], list(range(5, 90)), [7] * 30, [200, 100]]
    for i, prompt in enumerate(prompts):
        sampling = SamplingParams(max_tokens=12, temperature=0.0)
        engine.submit(
            GenerateRequest(request_id=str(i), model="tiny", inputs=(TokenSpan(tuple(prompt)),), sampling=sampling)
        )
    tokens: list[list[int]] = [[] for _ in prompts]
    while engine.has_work:
        for chunk in engine.step():
            tokens[int(chunk.request_id)] += chunk.tokens
    return tokens


@pytest.mark.parametrize(
    ("family", "size", "more"),
    [
        ("llama", 2, {"tie_word_embeddings": False, "mlp_bias": True, "attention_bias": True}),
        ("llama", 4, {"tie_word_embeddings": True}),  # two ranks to each KV head
        ("llama", 8, {"num_attention_heads": 8}),
        ("qwen2", 2, {}),
        ("qwen3", 4, {}),
        ("mistral", 2, {"sliding_window": 20}),
        ("olmo2", 2, {"pad_token_id": 0, "eos_token_id": 1}),  # norms over the heads of all ranks
    ],
)
def test_several_ranks_give_the_tokens_of_one(tmp_path: Path, family: str, size: int, more: dict[str, object]) -> None:
    source = tiny(tmp_path, family, **more)
    alone = answers(Engine(load_executor(config_of(source, 1)), "tiny"))
    before = set(Path("/dev/shm").glob("manta-*"))
    with driving(config_of(source, size)) as (executor, _):
        assert set(Path("/dev/shm").glob("manta-*")) <= before, "memory that a kill -9 would leave behind"
        assert answers(Engine(executor, "tiny")) == alone
        assert executor.collective == "shared memory"


def test_a_process_group_gives_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny(tmp_path, "llama")
    alone = answers(Engine(load_executor(config_of(source, 1)), "tiny"))
    by_tcp: Callable[[str, bool], str] = lambda host, _: _group_name(host, False)  # noqa: E731
    _group_name = tensor_parallel_executor.group_name
    monkeypatch.setattr(tensor_parallel_executor, "group_name", by_tcp)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with driving(config_of(source, 2), start_method="spawn") as (executor, _):
        assert answers(Engine(executor, "tiny")) == alone


def test_ranks_start_without_shared_memory_where_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = tiny(tmp_path, "llama")
    alone = answers(Engine(load_executor(config_of(source, 1)), "tiny"))
    before = set(Path("/dev/shm").glob("manta-*"))

    def full(file: int, start: int, num_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with driving(config_of(source, 2), start_method="spawn") as (executor, _):
        assert set(Path("/dev/shm").glob("manta-*")) <= before
        assert answers(Engine(executor, "tiny")) == alone
        assert executor.collective == "gloo"
    assert caplog.text.count("No space left on device") == 2


def test_a_rank_that_is_killed_ends_the_step_at_once(tmp_path: Path) -> None:
    with driving(config_of(tiny(tmp_path, "llama"), 2)) as (executor, processes):
        engine = Engine(executor, "tiny")
        sampling = SamplingParams(max_tokens=200, temperature=0.0)
        engine.submit(GenerateRequest(request_id="a", model="tiny", inputs=(TokenSpan((1, 2)),), sampling=sampling))
        for _ in range(3):
            assert engine.step()
        assert processes[0].pid is not None
        os.kill(processes[0].pid, signal.SIGKILL)
        began_s = time.monotonic()
        with pytest.raises((RuntimeError, OSError)):
            for _ in range(100):
                engine.step()
        assert time.monotonic() - began_s < 30
        assert len(engine.fail("lost")) == 1


def test_a_result_without_a_rank_that_is_lost_is_none() -> None:
    given_up: list[bool] = []
    liveness = tensor_parallel_executor.Liveness(lambda: given_up.append(True))
    result = ModelOutput((1,))
    assert liveness.checked(result) is result
    liveness.lose()
    with pytest.raises(RuntimeError, match="a rank is gone"):
        liveness.checked(result)
    over = tensor_parallel_executor.Liveness(lambda: given_up.append(True))
    over.end()
    over.lose()  # as every rank is when the replica ends
    assert over.checked(result) is result and given_up == [True]


class Distributed:
    """As much of torch.distributed as is used."""

    def __init__(self) -> None:
        self.given: dict[str, object] = {}
        self.is_closed = False

    def init_process_group(self, backend: str, **given: object) -> None:
        self.given = {"backend": backend, **given}

    def destroy_process_group(self) -> None:
        self.is_closed = True


def test_ranks_on_gpus_are_connected_before_the_first_step_and_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    by_nccl, by_gloo = Distributed(), Distributed()
    torch_group.TorchGroup("tcp://here:1", 1, 2, True, by_nccl)
    torch_group.TorchGroup("tcp://here:1", 1, 2, False, by_gloo)
    assert by_nccl.given["backend"] == "nccl" and by_nccl.given["device_id"] == torch.device("cuda", 3)
    assert by_gloo.given["backend"] == "gloo" and by_gloo.given["device_id"] is None
    limits = [group.given["timeout"] for group in (by_nccl, by_gloo)]
    assert limits == [timedelta(seconds=torch_group.GROUP_TIMEOUT_S)] * 2


def test_graphs_go_before_the_process_group_whose_calls_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = Distributed()
    seen: list[bool] = []
    with driving(config_of(tiny(tmp_path, "llama"), 2)) as (executor, _):
        group = torch_group.TorchGroup("tcp://here:1", 0, 2, False, distributed)
        monkeypatch.setattr(executor, "_group", group)

        class Graphs:
            def close(self) -> None:
                seen.append(distributed.is_closed)

        monkeypatch.setattr(executor._local, "_graphs", Graphs())
    assert seen == [False] and distributed.is_closed


def test_a_cpu_engine_beside_a_gpu_adds_up_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with driving(config_of(tiny(tmp_path, "llama"), 2)) as (executor, _):
        assert executor.collective == "shared memory"


def test_ranks_that_would_share_a_gpu_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = ModelConfig(served_model_name="tiny", model=str(tmp_path), tensor_parallel_size=2)
    with pytest.raises(ModelError, match="tensor_parallel_size is 2.*resources.num_gpus to 1"):
        start_driver(model, WorkerPlacement("127.0.0.1", True, lambda *_: pytest.fail("a rank was started")))


def test_a_size_that_does_not_divide_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tensor_parallel_size is 3; 4 heads, 2 KV heads .* over 1, 2, 4 ranks"):
        start_driver(config_of(tiny(tmp_path, "llama"), 3), WorkerPlacement("127.0.0.1", True, lambda *_: None))


PROMPT = tuple(range(5, 95))


def told(engine: Engine, name: str, prompt: tuple[int, ...] = PROMPT) -> tuple[list[int], list[float], int, int]:
    """Tokens, their log probabilities, and how many tokens of the prompt were cached and came from the node."""
    sampling = SamplingParams(max_tokens=12, temperature=0.0, num_logprobs=0)
    chunks = list(
        engine.generate(GenerateRequest(request_id=name, model="tiny", inputs=(TokenSpan(prompt),), sampling=sampling))
    )
    tokens = [token for chunk in chunks for token in chunk.tokens]
    logprobs = [one.logprob for chunk in chunks for one in chunk.logprobs or ()]
    return tokens, logprobs, chunks[0].cached_tokens, chunks[0].restored_tokens


@pytest.mark.parametrize(("family", "size"), [("llama", 2), ("llama", 4), ("bamba", 2)])
def test_replicas_of_several_ranks_keep_blocks_and_states_for_each_other(
    tmp_path: Path, family: str, size: int
) -> None:
    source = tiny(tmp_path, family) if family == "llama" else tmp_path
    if family != "llama":
        oracle(family).save_pretrained(tmp_path)
    alone = told(Engine(load_executor(config_of(source, 1)), "tiny"), "alone")
    before = set(Path("/dev/shm").glob("manta-*"))
    keeping = EngineConfig(dtype="float32", device="cpu", cache=CacheConfig(num_blocks=16, kv_offloading_bytes=1 << 21))
    model = msgspec.structs.replace(config_of(source, size), engine=keeping)
    with driving(model) as (first, _):
        engines = [Engine(first, "tiny", keeping)]
        assert told(engines[0], "first")[2:] == (0, 0)
        with driving(model) as (second, processes):
            engines.append(Engine(second, "tiny", keeping))
            tokens, logprobs, num_cached, num_restored = told(engines[1], "second")
            assert (num_cached, num_restored) == (80, 80)
            assert tokens == alone[0] and logprobs == pytest.approx(alone[1], abs=1e-4)
            told(engines[1], "longer", PROMPT[:40] + PROMPT)  # what is new in it, and takes the blocks of the rest
            for process in processes:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
        tokens, logprobs, num_cached, num_restored = told(engines[0], "first again", PROMPT[:40] + PROMPT)
        assert (num_cached, num_restored) == (128, 96)  # it had 32 itself
    assert set(Path("/dev/shm").glob("manta-*")) <= before, "memory that nobody uses any more"


def test_a_block_of_which_one_rank_lost_its_share_is_computed_again(tmp_path: Path) -> None:
    source = tiny(tmp_path, "llama")
    keeping = EngineConfig(dtype="float32", device="cpu", cache=CacheConfig(num_blocks=12, kv_offloading_bytes=1 << 21))
    model = msgspec.structs.replace(config_of(source, 2), engine=keeping)
    with driving(model) as (first, _):
        engine = Engine(first, "tiny", keeping)
        expected = told(engine, "first")
        names = hash_blocks(b"", root_hash(b"", "tiny", ""), PROMPT, 16)
        assert isinstance(first.connector, RankOffloadingConnector) and all(map(first.connector.holds, names))
        told(engine, "other", PROMPT[::-1] * 2)  # takes all blocks
        (other,) = first.connector._others
        assert other._file is not None
        for way in range(WAYS):
            other._set_last_used(other._file, names[2], way, 0)
        assert not first.connector.holds(names[2]) and not first.connector.load(names[2], 0)
        tokens, logprobs, num_cached, num_restored = told(engine, "again")
        assert (num_cached, num_restored) == (32, 32)
        assert tokens == expected[0] and logprobs == pytest.approx(expected[1], abs=1e-4)
        assert first.connector.holds(names[2]), "it is kept again"


def test_ranks_on_several_nodes_keep_nothing(caplog: pytest.LogCaptureFixture) -> None:
    cache = CacheConfig(num_blocks=16, kv_offloading_bytes=1 << 21)
    model = ModelConfig(served_model_name="tiny", model="none", engine=EngineConfig(cache=cache))
    assert tensor_parallel_executor._without_offloading(model).engine.cache.kv_offloading_bytes == 0
    assert "the ranks are on several nodes" in caplog.text
