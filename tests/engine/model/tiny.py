"""Tiny random models of transformers, saved as the hub has them, and our decoder run over them step by step."""

from pathlib import Path

import torch
import transformers
from torch import Tensor

from engine.cache.cache_layout import CacheLayout
from engine.cache.kv_cache import KVCache
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.source import resolve
from engine.checkpoint.weight_cache import WeightCache
from engine.model.block_tables import BlockTables
from engine.model.decoder import Decoder
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from kernels.kernel_set import KernelSet, load_kernels
from tests.engine.model.tiny_families import FAMILIES

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
CPU = torch.device("cpu")


def oracle(name: str, **more: object) -> transformers.PreTrainedModel:
    """A model of transformers with random weights, norms and biases included. `more`: changes of its config."""
    family, changes = FAMILIES[name]
    torch.manual_seed(sum(map(ord, name)))
    kind = {
        "Gemma3": "Gemma3TextConfig",
        "Gemma3n": "Gemma3nTextConfig",
        "Gemma4": "Gemma4TextConfig",
        "Gemma4Unified": "Gemma4UnifiedTextConfig",
        "Llama4": "Llama4TextConfig",
        "Qwen3_5": "Qwen3_5TextConfig",
        "Qwen3_5Moe": "Qwen3_5MoeTextConfig",
    }.get(family, f"{family}Config")
    sizes = {name: size for name, size in SIZES.items() if name != "num_hidden_layers" or "num_layers" not in changes}
    config = getattr(transformers, kind)(**{**sizes, **changes, **more})
    config._attn_implementation = "eager"  # the others leave soft caps out
    made_of = getattr(transformers, f"{family}ForCausalLM", transformers.LlamaForCausalLM)  # or a Llama by config
    model = made_of(config).eval()
    with torch.no_grad():
        for parameter in (*model.parameters(), *_stored_buffers(model)):
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if parameter.dim() == 1 else 0.0))
    return model


def _stored_buffers(model: transformers.PreTrainedModel) -> list[Tensor]:
    """Those that a checkpoint has and that may be any: routers' correction biases, scales of layers."""
    ends = ("e_score_correction_bias", "expert_bias", "layer_scalar")
    return [buffer for name, buffer in model.named_buffers() if name.endswith(ends)]


@torch.no_grad()
def oracle_logits(model: transformers.PreTrainedModel, tokens: list[int]) -> Tensor:
    return model(torch.tensor([tokens])).logits[0].float()


class Runner:
    """Our decoder with a cache of its own; computes token lists in any pieces and returns the logits of all rows."""

    def __init__(
        self,
        path: Path | str,
        dtype: torch.dtype = torch.float32,
        block_size: int = 4,
        kernels: KernelSet | None = None,
        cache_dtype: torch.dtype | None = None,
        keeps_ints: bool = True,
        max_model_len: int = 256,
        device: torch.device = CPU,
        weight_cache: WeightCache | None = None,
    ) -> None:
        self.device = device
        files = resolve(str(path))
        arch = read_arch(files)
        cache = weight_cache or WeightCache(0)
        self.block_size = block_size
        self.width = 256 // block_size
        kernels = kernels or load_kernels(CPU, dtype, cache_dtype=cache_dtype, memory=cache)
        keeps_ints = keeps_ints and kernels.quantized_linear is not None

        def build() -> Decoder:
            return Decoder(arch, open_weights(files, arch, dtype, device, keeps_ints, cache), kernels, max_model_len)

        self.decoder = cache.load(files, f"{kernels.name} {dtype} {keeps_ints}", build)
        layout = CacheLayout.of(arch, block_size, max_model_len)
        self.num_groups = len(layout.groups)
        self.kv = KVCache(layout, 20 * self.width * self.num_groups, cache_dtype or dtype, device, num_states=20)

    def step(self, pieces: list[tuple[int, int, list[int]]]) -> Tensor:
        """Computes (sequence, start, tokens) pieces together and returns the logits of their last rows."""
        sequences = tuple(
            ScheduledSequence(seq, start, tuple(tokens), self.blocks(seq, start + len(tokens)), True, state=seq)
            for seq, start, tokens in pieces
        )
        scheduled = SchedulerOutput(0, sequences)
        tables = BlockTables.of(scheduled, self.block_size, self.kv.layout.groups)
        return self.decoder.forward(ForwardBatch.from_scheduled(scheduled, tables, self.device), self.kv)

    def blocks(self, seq: int, num_tokens: int) -> tuple[tuple[int, ...], ...]:
        # neighboring sequences share no run of blocks: block w of sequence s in group g is (w * 20 + s) * groups + g
        numbers = range(-(-num_tokens // self.block_size))
        return tuple(tuple((w * 20 + seq) * self.num_groups + g for w in numbers) for g in range(self.num_groups))

    def logits(self, tokens: list[int], chunk: int) -> Tensor:
        """The logits after each chunk of one sequence."""
        return torch.cat(
            [self.step([(0, start, tokens[start : start + chunk])]) for start in range(0, len(tokens), chunk)]
        )


def error(out: Tensor, expected: Tensor) -> float:
    assert not out.isnan().any()
    return ((out - expected).norm() / expected.norm()).item()
