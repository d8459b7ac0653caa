"""Real engines that share a node's memory, against engines that compute everything themselves."""

import contextlib
import itertools
import os
import threading
import time

import msgspec
import pytest
import torch

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.cache.cache_layout import CacheLayout
from engine.cache.cache_spec import page_spec
from engine.cache.host_tier import HostTier
from engine.cache.kv_cache import KVCache, split_as
from engine.cache.kv_offload import (
    KVOrigin,
    OffloadingConnector,
    _CudaStagingBuffer,
    identity,
    open_offloading_connectors,
)
from engine.checkpoint.open import read_arch
from engine.checkpoint.source import resolve
from engine.engine import Engine
from engine.errors import ModelError
from engine.execution.load import load_executor
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from kernels.native.compiler import find_compiler
from tests.engine.model.tiny import oracle

PROMPT = tuple(torch.randint(97, (70,), generator=torch.Generator().manual_seed(3)).tolist())
NODE_BYTES = 1 << 20


@pytest.fixture(scope="module", params=["llama3", "gemma3", "bamba"], ids=["one cache group", "windows", "recurrent"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    oracle(request.param).save_pretrained(folder)
    return folder


@pytest.fixture
def make(folder, tmp_path, monkeypatch):
    """Makes engines of one node, whose memory is a folder of this test's."""
    monkeypatch.setattr("engine.cache.kv_offload.HostTier.__init__.__defaults__", (tmp_path,))
    made = []

    def make(**cache):
        settings = CacheConfig(**{"num_blocks": 40, "kv_offloading_bytes": NODE_BYTES, **cache})
        config = EngineConfig(device="cpu", num_threads=1, cache=settings)
        executor = load_executor(ModelConfig(served_model_name="m", model=str(folder), engine=config), cache_key=b"k")
        made.append(Engine(executor, "m", config, b"k"))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert list(tmp_path.iterdir()) == []


def answer(engine, prompt=PROMPT, **more):
    """[(token, its log probabilities)], and how many tokens of the prompt were cached."""
    sampling = SamplingParams(max_tokens=30, seed=5, num_logprobs=97)
    asked = GenerateRequest(request_id="a", model="m", inputs=(TokenSpan(prompt),), sampling=sampling, **more)
    chunks = list(engine.generate(asked))
    return [(one.token, dict(one.top)) for chunk in chunks for one in chunk.logprobs or ()], chunks[0].cached_tokens


def test_one_engine_finds_what_another_one_computed(make):
    alone, _ = answer(make(kv_offloading_bytes=0))
    first, second = make(), make()
    assert answer(first)[1] == 0
    found, num_cached = answer(second)
    assert num_cached == 64
    tokens = [token for token, _ in found]
    assert tokens == [token for token, _ in alone]


def test_what_the_node_gave_is_told_apart(make):
    first, second = make(), make()
    sampling = SamplingParams(max_tokens=2)

    def told(engine, prompt):
        asked = GenerateRequest(request_id="a", model="m", inputs=(TokenSpan(prompt),), sampling=sampling)
        return {(chunk.cached_tokens, chunk.restored_tokens) for chunk in engine.generate(asked)}

    assert told(first, PROMPT[:40]) == {(0, 0)}
    assert told(first, PROMPT) == {(32, 0)}
    assert told(second, PROMPT[:40]) == {(32, 32)}
    assert told(second, PROMPT) == {(64, 32)}


@pytest.mark.skipif(find_compiler() is None, reason="without a C compiler logits depend on the chunks")
def test_logits_are_bitwise_those_of_an_engine_that_computed_all(make):
    alone, _ = answer(make(kv_offloading_bytes=0))
    first, second = make(), make()
    answer(first)
    assert answer(second)[0] == alone
    sent = tuple(token for token, _ in alone[:20])
    third = make()
    resumed, num_cached = answer(third, resume=(sent,))
    assert resumed == alone[20:]
    # the whole prompt, and of the answer what fills a block; answers leave no snapshots of states so soon
    assert num_cached == (64 if third.executor.num_states else 70)


def test_blocks_that_left_the_cache_come_back(make):
    num_groups = len(make(kv_offloading_bytes=0).executor.cache_groups)
    engine = make(num_blocks=8 * num_groups)
    expected, _ = answer(engine)
    answer(engine, PROMPT[::-1])  # takes all blocks
    again, num_cached = answer(engine)
    assert num_cached == 64 and [one[0] for one in again] == [one[0] for one in expected]


class SlowPassage:
    """As of a device that works on its own: a block comes when it is let."""

    def __init__(self, kv):
        self.host = torch.empty(kv.blocks.num_bytes, dtype=torch.uint8)
        self.comes = threading.Event()

    def fetch(self, parts):
        for part, own in zip(parts, split_as(parts, self.host), strict=True):
            own.copy_(part)

    def send(self, parts):
        for part, own in zip(parts, split_as(parts, self.host), strict=True):
            part.copy_(own)

    def wait(self):
        assert self.comes.wait(10)
        self.comes.clear()


@pytest.fixture
def kv(folder):
    """Six blocks, each full of its number."""
    layout = CacheLayout.of(read_arch(resolve(str(folder))), 16)
    kv = KVCache(layout, 6, torch.bfloat16, torch.device("cpu"))
    for block in range(6):
        kv.block(block).fill_(float(block))
    return kv


NAMES = [bytes([number]) * 16 for number in range(6)]


def arena_of(kv, folder):
    size = kv.blocks.num_bytes
    return HostTier("one", size, 16 * size, folder)


def wait_for(cache, name):
    deadline_s = time.monotonic() + 30
    while not cache.holds(name):
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_blocks_pass_through_memory_that_is_used_again_only_when_they_have_come(kv, tmp_path):
    staging_buffers = [SlowPassage(kv) for _ in range(2)]
    cache = OffloadingConnector(kv.blocks, arena_of(kv, tmp_path), staging_buffers)
    for block in (0, 1):
        cache.save(NAMES[block], block)
    assert not cache.holds(NAMES[0]) and not cache.holds(NAMES[1])  # on their way
    third = threading.Thread(target=cache.save, args=(NAMES[2], 2))
    third.start()
    third.join(0.1)
    assert third.is_alive()  # both staging buffers are taken
    staging_buffers[0].comes.set()
    third.join(10)
    assert cache.holds(NAMES[0]) and not cache.holds(NAMES[1])
    staging_buffers[1].comes.set()
    wait_for(cache, NAMES[1])
    assert cache.load(NAMES[0], 5)
    assert (kv.block(5) == 0).all()
    for staging in staging_buffers:
        staging.comes.set()
    wait_for(cache, NAMES[2])
    for _ in range(3):  # a miss loses no staging buffer
        assert not cache.load(NAMES[4], 3) and (kv.block(3) == 3).all()
    cache.save(NAMES[3], 3)
    for staging in staging_buffers:
        staging.comes.set()
    cache.close()
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_does_not_come_costs_no_other(kv, tmp_path, caplog):
    staging = SlowPassage(kv)
    cache = OffloadingConnector(kv.blocks, arena_of(kv, tmp_path), [staging])

    def fail():
        raise RuntimeError("an illegal memory access was encountered")

    staging.wait, wait = fail, staging.wait
    cache.save(NAMES[0], 0)
    cache._writer.release(cache._writer.free_staging())  # it is free again
    staging.wait = wait
    staging.comes.set()
    cache.save(NAMES[1], 1)
    wait_for(cache, NAMES[1])
    assert not cache.holds(NAMES[0]) and "illegal memory access" in caplog.text
    cache.close()


class Device:
    """Streams that do nothing until they are run, each as far as it gets before another one's turn comes."""

    def __init__(self):
        self.steps, self.offload_stream, self.load_stream = (Stream(self) for _ in range(3))
        self.current = self.steps

    def Event(self, blocking=False):
        return Event(self)

    def current_stream(self):
        return self.current

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def copy(self, to, source):
        self.current.queue.append(lambda: to.copy_(source))

    def run(self, *streams):
        """In this order; a stream that waits for another one gives way to it."""
        while any(stream.queue for stream in streams):
            assert any([stream.run() for stream in streams]), "all streams wait"


class Stream:
    def __init__(self, device):
        self.device, self.queue = device, []

    def wait_event(self, event):
        at = event.num_records

        def is_over():
            return event.num_past >= at

        self.queue.append(is_over)

    def run(self):
        """Whether anything was done."""
        count = len(self.queue)
        while self.queue and self.queue[0]() is not False:
            self.queue.pop(0)
        return len(self.queue) < count


class Event:
    def __init__(self, device):
        self.device, self.num_records, self.num_past = device, 0, 0

    def record(self):
        self.num_records += 1
        at = self.num_records
        self.device.current.queue.append(lambda: setattr(self, "num_past", max(self.num_past, at)))

    def synchronize(self):
        assert self.num_past == self.num_records, "the host would wait for ever: nobody runs the streams"


def orders(device):
    return itertools.permutations((device.steps, device.offload_stream, device.load_stream))


@pytest.mark.parametrize("order", range(6))
def test_a_block_is_saved_as_it_was_though_steps_use_it_again_at_once(kv, order):
    device = Device()
    staging = _CudaStagingBuffer(kv.blocks, device.offload_stream, device.load_stream, device, device.copy)
    staging.fetch([kv.block(4)])
    device.copy(kv.block(4), torch.full_like(kv.block(4), 9.0))  # the next step's
    device.run(*list(orders(device))[order])
    staging.wait()
    assert (staging.host.view(torch.bfloat16) == 4).all() and (kv.block(4) == 9).all()


@pytest.mark.parametrize("order", range(6))
def test_a_block_is_there_before_the_next_step_and_not_before_the_last_one_is_over(kv, order):
    device = Device()
    staging = _CudaStagingBuffer(kv.blocks, device.offload_stream, device.load_stream, device, device.copy)
    last, following = torch.zeros_like(kv.block(0)), torch.zeros_like(kv.block(0))
    device.copy(last, kv.block(2))  # who had the block before
    staging.host.view(torch.bfloat16).fill_(7.0)
    staging.send([kv.block(2)])
    device.copy(following, kv.block(2))
    device.run(*list(orders(device))[order])
    staging.wait()
    assert (last == 2).all() and (following == 7).all()


def test_steps_do_not_wait_for_the_way_to_the_host(kv):
    device = Device()
    staging = _CudaStagingBuffer(kv.blocks, device.offload_stream, device.load_stream, device, device.copy)
    staging.fetch([kv.block(4)])
    device.steps.run()
    assert not device.steps.queue and device.offload_stream.queue
    with pytest.raises(AssertionError, match="wait for ever"):
        staging.wait()


def test_other_salts_and_switched_off_sharing_find_nothing(make):
    answer(make())
    assert answer(make(), cache_salt="other")[1] == 0
    assert answer(make(enable_prefix_caching=False))[1] == 0


def test_engines_of_different_weights_settings_or_keys_do_not_meet(folder, tmp_path):
    files = resolve(str(folder))
    arch = read_arch(files)

    def name(key=b"k", arch=arch, dtype=torch.bfloat16, kernels="compiled", **engine):
        kv = KVCache(CacheLayout.of(arch, 16), 2, dtype, torch.device("cpu"))
        model = ModelConfig(served_model_name="m", model=str(folder), engine=EngineConfig(**engine))
        return identity(KVOrigin(model, files, arch, kernels, key), kv)

    others = [
        name(key=b"l"),
        name(arch=msgspec.structs.replace(arch, norm_eps=2.0)),
        name(dtype=torch.float32),
        name(kernels="reference"),
        name(keep_quantized=False),
        name(deterministic=False),
    ]
    before = name()
    (folder / "model.safetensors").touch()
    assert len({before, name(), *others}) == len(others) + 2


def test_a_model_whose_layers_all_have_states_shares_these_alone(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    oracle("bamba").save_pretrained(folder)
    monkeypatch.setattr("engine.cache.kv_offload.HostTier.__init__.__defaults__", (tmp_path,))
    files = resolve(str(folder))
    arch = read_arch(files)
    arch = msgspec.structs.replace(arch, layers=tuple(one for one in arch.layers if page_spec(one.mixer) is None))
    config = EngineConfig(cache=CacheConfig(kv_offloading_bytes=NODE_BYTES))
    origin = KVOrigin(ModelConfig(served_model_name="m", model=str(folder), engine=config), files, arch, "k", b"k")
    kv = KVCache(CacheLayout.of(arch, 16), 2, torch.bfloat16, torch.device("cpu"), num_states=3)
    blocks, states = open_offloading_connectors(origin, kv)
    assert blocks.holds(NAMES[0]) and blocks.load(NAMES[0], 1) and not states.holds(NAMES[0])
    for part in kv.states.parts(1):
        part.fill_(5.0)
    states.save(NAMES[0], 1)
    assert states.load(NAMES[0], 2) and all((part == 5).all() for part in kv.states.parts(2))
    assert states.host_tier.num_pieces * kv.states.num_bytes > NODE_BYTES // 2
    states.close()


def test_too_little_memory_for_a_bucket_is_an_error_with_the_key(make):
    message = r"engine\.cache\.kv_offloading_bytes is 5; 16 blocks (and states )?of this model take \d+"
    with pytest.raises(ModelError, match=message):
        make(kv_offloading_bytes=5)


def test_an_engine_works_without_where_the_machine_has_not_so_much_memory(make, caplog):
    engine = make(kv_offloading_bytes=1 << 50)
    assert len(answer(engine)[0]) == 30
    assert "(engine.cache.kv_offloading_bytes)" in caplog.text and "has no room for" in caplog.text


@pytest.mark.parametrize("left", [0, 10_000])
def test_an_engine_goes_on_when_somebody_truncates_the_memory(make, tmp_path, caplog, left):
    alone, _ = answer(make(kv_offloading_bytes=0))
    first, second = make(), make()
    answer(first)
    for path in tmp_path.iterdir():
        os.truncate(path, left)
    assert answer(second)[0] == alone
    others = [answer(make()) for _ in range(2)]
    assert all(tokens == alone for tokens, _ in others)
    # what the second one computed; that a block is lost shows when it is read: here not before a state is found
    assert others[0][1] == 64 or second.executor.num_states and others[1][1] == 64
    said = sum("somebody truncated it" in record.getMessage() for record in caplog.records)
    assert (said > 0) == (left > 0)  # if all is lost, there is nothing to miss it by


def test_an_engine_works_without_where_others_can_write_to_the_memory(make, tmp_path, caplog):
    alone, _ = answer(make(kv_offloading_bytes=0))
    first = make()
    paths = list(tmp_path.iterdir())
    first.close()
    for path in paths:
        path.touch(0o666)
        path.chmod(0o666)
    assert answer(make())[0] == alone
    assert "others have access (mode 0666)" in caplog.text
    for path in paths:
        path.unlink(missing_ok=True)
