import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.source import resolve
from engine.engine import Engine
from engine.errors import ModelError
from engine.execution.load import load_executor
from engine.model.kv_scales import take_kv_scale
from engine.model.layer_weights import LayerWeights
from engine.parallel.tensor_parallel import TensorParallel
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from kernels.kernel_set import load_kernels
from tests.engine.model.tiny import CPU, Runner, error, oracle

TOKENS = torch.randint(97, (90,), generator=torch.Generator().manual_seed(2)).tolist()
# float8 has three bits behind the point: a number is off by 2 % on average. The logits of three random layers are so
# by about 8 %; of a key or value at a wrong place or with a wrong scale, by more than 50 %.
BOUND = 0.12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    oracle("llama3").save_pretrained(path)
    return path


@pytest.fixture
def scaled(folder, tmp_path):
    """Another checkpoint of the same model: keys, values and what is made of them in other units, and their scales."""

    def write(scales):
        weights = load_file(folder / "model.safetensors")
        for layer in range(3):
            at = f"model.layers.{layer}.self_attn"
            for matrix, factor in {"k": 512.0, "q": 1 / 512, "v": 2.0**-12, "o": 2.0**12}.items():
                weights[f"{at}.{matrix}_proj.weight"] *= factor
            weights |= {f"{at}.{name}": value.clone() for name, value in scales.items()}
        save_file(weights, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
        return tmp_path

    return write


def logits(path, dtype=torch.float32, cache_dtype=torch.float8_e4m3fn):
    return Runner(path, dtype, cache_dtype=cache_dtype).logits(TOKENS, 30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_near_those_of_a_whole_cache(folder, dtype):
    assert 1e-3 < error(logits(folder, dtype), logits(folder, dtype, None)) < BOUND


def test_single_tokens_read_what_chunks_wrote(folder):
    runner = Runner(folder, cache_dtype=torch.float8_e4m3fn)
    assert error(runner.logits(TOKENS, 1)[29::30], logits(folder)) < 1e-4


@pytest.mark.parametrize(
    ("k_name", "v_name"),
    [("k_scale", "v_scale"), ("attn.k_scale", "attn.v_scale"), ("k_proj.k_scale", "v_proj.v_scale")],
)
def test_the_checkpoints_scales_are_used(folder, scaled, k_name, v_name):
    expected = logits(folder, cache_dtype=None)
    assert error(logits(scaled({})), expected) > 0.5
    path = scaled({k_name: torch.tensor(512.0), v_name: torch.tensor([2.0**-12])})
    assert error(logits(path), expected) < BOUND
    assert error(logits(path, cache_dtype=None), expected) < 1e-4


def test_heads_may_have_scales_of_their_own(folder, scaled):
    path = scaled({"k_scale": torch.tensor([512.0, 256.0]), "v_scale": torch.tensor([2.0**-12, 2.0**-11])})
    assert error(logits(path), logits(folder, cache_dtype=None)) < BOUND


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_rank_has_the_scales_of_its_heads(scaled, ranks):
    files = resolve(str(scaled({"k_scale": torch.tensor([3.0, 5.0])})))
    arch = read_arch(files)
    found = []
    for rank in range(ranks):
        weights = open_weights(files, arch, torch.bfloat16, CPU)
        layer = LayerWeights(arch, weights, load_kernels(CPU, torch.bfloat16), 1, TensorParallel(rank, ranks))
        assert take_kv_scale(layer, "v", 2) is None
        found.append(take_kv_scale(layer, "k", 2).tolist())
    assert found == {1: [[3.0, 5.0]], 2: [[3.0], [5.0]], 4: [[3.0], [3.0], [5.0], [5.0]]}[ranks]


@pytest.mark.parametrize("scale", [torch.ones(3), torch.tensor(0.0)])
def test_scales_that_mean_nothing_are_refused(scaled, scale):
    with pytest.raises(ModelError, match="self_attn.k_scale must be one positive number, or one for each of 2"):
        Runner(scaled({"k_scale": scale}))


def load(folder, dtype="fp8", **changes):
    cache = CacheConfig(kv_cache_memory_bytes=40_000, kv_cache_dtype=dtype)
    config = EngineConfig(**{"device": "cpu", "num_threads": 1, "cache": cache, **changes})
    return load_executor(ModelConfig(served_model_name="tiny", model=str(folder), engine=config))


def test_twice_as_many_blocks_are_in_the_same_bytes(folder):
    whole = load(folder, "auto").num_blocks
    assert whole > 1 and load(folder).num_blocks in (2 * whole, 2 * whole + 1)


def test_the_engine_runs_on_it(folder):
    sampling = SamplingParams(max_tokens=20, temperature=0.0)
    request = GenerateRequest(request_id="a", model="tiny", inputs=(TokenSpan(tuple(TOKENS[:40])),), sampling=sampling)
    first, again = ([chunk.tokens for chunk in Engine(load(folder), "tiny").generate(request)] for _ in range(2))
    assert sum(map(len, first)) == 20 and first == again


def test_no_determinism_is_promised_with_it_on_a_cpu(folder):
    with pytest.raises(ModelError, match="engine.deterministic .* engine.cache.kv_cache_dtype fp8; set that to auto"):
        load(folder, deterministic=True)


def test_layers_that_read_keys_of_another_have_its_scales(tmp_path):
    oracle("gemma4").save_pretrained(tmp_path)
    expected, tensors = logits(tmp_path, cache_dtype=None), load_file(tmp_path / "model.safetensors")
    assert read_arch(resolve(str(tmp_path))).kv_layer(6) == 1
    tensors["model.layers.1.self_attn.k_norm.weight"] *= 512  # beyond float8, and queries as much smaller
    for layer in (1, 3, 5, 6):
        tensors[f"model.layers.{layer}.self_attn.q_norm.weight"] /= 512
    save_file(tensors, tmp_path / "model.safetensors")
    assert error(logits(tmp_path), expected) > 2 * BOUND
    save_file({**tensors, "model.layers.1.self_attn.k_scale": torch.tensor(512.0)}, tmp_path / "model.safetensors")
    assert error(logits(tmp_path), expected) < BOUND
