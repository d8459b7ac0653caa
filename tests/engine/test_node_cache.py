"""Real engines that share a node's memory, against engines that compute everything themselves."""

import msgspec
import pytest
import torch

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.arena import Arena
from engine.checkpoint.open import read_arch
from engine.checkpoint.source import resolve
from engine.engine import Engine
from engine.errors import ModelError
from engine.kv_store import KVStore
from engine.load import load_executor
from engine.node_cache import NodeCache, identity
from engine.types import GenerateRequest, SamplingParams
from kernels.native.compiler import find_compiler
from tests.engine.model.tiny import oracle

PROMPT = tuple(torch.randint(97, (70,), generator=torch.Generator().manual_seed(3)).tolist())
NODE_BYTES = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    oracle("llama3").save_pretrained(folder)
    return folder


@pytest.fixture
def make(folder, tmp_path, monkeypatch):
    """Makes engines of one node, whose memory is a folder of this test's."""
    monkeypatch.setattr("engine.node_cache.Arena.__init__.__defaults__", (tmp_path,))
    made = []

    def make(**cache):
        settings = CacheConfig(**{"num_blocks": 40, "node_bytes": NODE_BYTES, **cache})
        config = EngineConfig(device="cpu", num_threads=1, cache=settings)
        executor = load_executor(ModelConfig(name="m", source=str(folder), engine=config), cache_key=b"k")
        made.append(Engine(executor, "m", config.scheduler, settings, b"k", keeper=executor.node_cache))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert list(tmp_path.iterdir()) == []


def answer(engine, prompt=PROMPT, **more):
    """[(token, its log probabilities)], and how many tokens of the prompt were cached."""
    sampling = SamplingParams(max_tokens=30, seed=5, num_logprobs=97)
    asked = GenerateRequest(request_id="a", model="m", prompt=prompt, sampling=sampling, **more)
    chunks = list(engine.generate(asked))
    return [(one.token, dict(one.top)) for chunk in chunks for one in chunk.logprobs or ()], chunks[0].cached_tokens


def test_one_engine_finds_what_another_one_computed(make):
    alone, _ = answer(make(node_bytes=0))
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
        asked = GenerateRequest(request_id="a", model="m", prompt=prompt, sampling=sampling)
        return {(chunk.cached_tokens, chunk.restored_tokens) for chunk in engine.generate(asked)}

    assert told(first, PROMPT[:40]) == {(0, 0)}
    assert told(first, PROMPT) == {(32, 0)}
    assert told(second, PROMPT[:40]) == {(32, 32)}
    assert told(second, PROMPT) == {(64, 32)}


@pytest.mark.skipif(find_compiler() is None, reason="without a C compiler logits depend on the chunks")
def test_logits_are_bitwise_those_of_an_engine_that_computed_all(make):
    alone, _ = answer(make(node_bytes=0))
    first, second = make(), make()
    answer(first)
    assert answer(second)[0] == alone
    sent = tuple(token for token, _ in alone[:20])
    resumed, num_cached = answer(make(), resume=(sent,))
    assert resumed == alone[20:] and num_cached == 70  # the whole prompt, and of the answer what fills a block


def test_blocks_that_left_the_cache_come_back(make):
    engine = make(num_blocks=8)
    expected, _ = answer(engine)
    answer(engine, PROMPT[::-1])  # takes all blocks
    again, num_cached = answer(engine)
    assert num_cached == 64 and [one[0] for one in again] == [one[0] for one in expected]


class SlowPassage:
    """As of a device that works on its own: a copy is there when somebody waits for it, or told `now`."""

    def __init__(self, kv):
        self.here = torch.empty_like(kv.by_block[0])
        self.now = self.name = None

    def leave(self, name):
        self.now, self.name = False, name

    def has_arrived(self):
        return self.now

    def arrive(self):
        return self.name


def test_blocks_pass_through_memory_that_is_used_again_only_when_they_have_arrived(folder, tmp_path):
    kv = KVStore(read_arch(resolve(str(folder))), 6, 16, torch.bfloat16, torch.device("cpu"))
    for block in range(6):
        kv.by_block[block] = float(block)
    passages = [SlowPassage(kv) for _ in range(2)]
    size = kv.by_block[0].numel() * 2
    cache = NodeCache(kv, Arena("one", size, 16 * size, tmp_path), passages)
    names = [bytes([number]) * 16 for number in range(6)]
    for block in (0, 1):
        cache.save(names[block], block)
    assert not cache.holds(names[0]) and not cache.holds(names[1])  # on their way
    cache.save(names[2], 2)
    assert cache.holds(names[0]) and not cache.holds(names[1])  # the oldest was waited for
    passages[1].now = True
    assert cache.load(names[0], 5) and cache.holds(names[1])
    assert (kv.by_block[5] == 0).all()
    assert not cache.load(names[4], 3) and (kv.by_block[3] == 3).all()
    for _ in range(3):  # a miss loses no passage
        assert not cache.load(names[4], 3)
    cache.save(names[3], 3)
    cache.close()
    assert list(tmp_path.iterdir()) == []


def test_other_salts_and_switched_off_sharing_find_nothing(make):
    answer(make())
    assert answer(make(), cache_salt="other")[1] == 0
    assert answer(make(prefix_sharing=False))[1] == 0


def test_engines_of_different_weights_settings_or_keys_do_not_meet(folder, tmp_path):
    files = resolve(str(folder))
    arch = read_arch(files)

    def name(key=b"k", arch=arch, dtype=torch.bfloat16, kernels="compiled", **engine):
        kv = KVStore(arch, 2, 16, dtype, torch.device("cpu"))
        model = ModelConfig(name="m", source=str(folder), engine=EngineConfig(**engine))
        return identity(model, files, arch, kernels, kv, key)

    others = [
        name(key=b"l"),
        name(arch=msgspec.structs.replace(arch, rope_theta=2.0)),
        name(dtype=torch.float32),
        name(kernels="reference"),
        name(keep_quantised=False),
        name(deterministic=False),
    ]
    before = name()
    (folder / "model.safetensors").touch()
    assert len({before, name(), *others}) == len(others) + 2


def test_too_little_memory_for_a_bucket_is_an_error_with_the_key(make):
    with pytest.raises(ModelError, match=r"engine\.cache\.node_bytes is 5; 16 blocks of this model take \d+"):
        make(node_bytes=5)


def test_an_engine_works_without_where_the_machine_has_not_so_much_memory(make, caplog):
    engine = make(node_bytes=1 << 50)
    assert len(answer(engine)[0]) == 30
    assert "(engine.cache.node_bytes)" in caplog.text and "has no room for" in caplog.text
