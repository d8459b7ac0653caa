"""A model without weights to read: the sizes of a real one, random numbers made on the device."""

import torch
from torch import Tensor

from engine.arch.feed_forward_spec import DenseMlp
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.cache.cache_layout import CacheLayout
from engine.cache.kv_cache import KVCache
from engine.checkpoint.matrix import Matrix, cut
from engine.checkpoint.shard import Shard
from engine.checkpoint.weights import Weights
from engine.device.cuda_capture import Capture, CudaMemory, cuda_capture
from engine.execution.cuda_graph_cache import CudaGraphCache, graphs_budget
from engine.execution.cuda_graphs import CudaGraphs, LargestStep
from engine.execution.inline_executor import InlineExecutor
from engine.execution.loaded_model import LoadedModel
from engine.model.cascade import CascadeThresholds
from engine.model.decoder import Decoder
from engine.sampling.sampler import Sampler
from kernels.kernel_set import KernelSet
from scripts.bench.gpu.cases import random_ints

__all__ = ["LLAMA_8B", "TINY", "RandomModel"]

LLAMA_8B = ModelArch(
    vocab_size=128_256,
    model_dim=4096,
    layers=(
        LayerSpec(
            mixer=SelfAttention(num_heads=32, num_kv_heads=8, head_dim=128, rope=Rope(500_000.0, 128)),
            feed_forward=DenseMlp(dim=14336),
        ),
    )
    * 32,
    norm_eps=1e-5,
    max_model_len=131_072,
)
TINY = ModelArch(
    vocab_size=300,
    model_dim=64,
    layers=tuple(
        LayerSpec(
            mixer=SelfAttention(
                num_heads=4,
                num_kv_heads=2,
                head_dim=16,
                rope=Rope(10_000.0, 16),
                sliding_window=window,
                qk_norm="head",
            ),
            feed_forward=DenseMlp(dim=96),
        )
        for window in (0, 24)
    ),
    norm_eps=1e-5,
    max_model_len=512,
)
BLOCK_SIZE = 16
MAX_CONTEXT_LEN = 16_384


class RandomModel:
    """The same numbers at every call, for a device."""

    def __init__(
        self,
        arch: ModelArch,
        kernels: KernelSet,
        num_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
        four_bits: bool = False,
    ) -> None:
        """four_bits   linear layers are integers in groups, but for the head"""
        weights = Weights(_RandomTensors(arch, dtype, device), dtype, device, keeps_ints=four_bits)
        self.device, self.kernels = device, kernels
        self.decoder = Decoder(arch, weights, kernels, min(arch.max_model_len, MAX_CONTEXT_LEN))
        layout = CacheLayout.of(arch, BLOCK_SIZE, max_model_len=1)  # one table of blocks for all layers
        self.kv = KVCache(layout, num_blocks, dtype, device)
        for cache in (cache for layer in self.kv.layers for cache in layer):
            cache.zero_()  # a step is timed on blocks that nobody wrote
        self.sampler = Sampler(kernels, arch.vocab_size, device)
        self.max_model_len = min(arch.max_model_len, MAX_CONTEXT_LEN)
        self.executor = self.executor_of(0)

    def executor_of(self, max_num_seqs: int, cascade: CascadeThresholds | None = None) -> InlineExecutor:
        """Steps of up to `max_num_seqs` single tokens are replayed; 0: none is."""
        graphs = None
        if max_num_seqs:
            graphs = CudaGraphs(
                lambda batch: self.decoder.hidden(batch, self.kv),
                self._graph_cache(),
                LargestStep(max_num_seqs, -(-self.max_model_len // BLOCK_SIZE), num_tables=len(self.kv.layout.groups)),
                block_size=BLOCK_SIZE,
                device=self.device,
            )
        return InlineExecutor(self.loaded(), self.sampler, graphs, cascade=cascade)

    def loaded(self) -> LoadedModel:
        return LoadedModel(self.decoder, self.kv, self.kernels, self.max_model_len, self.device)

    def _graph_cache(self) -> CudaGraphCache:
        """Bounded as in serving."""
        if self.device.type != "cuda":
            return CudaGraphCache(self.capture())
        memory, total_bytes = CudaMemory(self.device), torch.cuda.mem_get_info(self.device)[1]
        return CudaGraphCache(self.capture(), memory, graphs_budget(total_bytes))

    def capture(self) -> Capture:
        return cuda_capture(self.device) if self.device.type == "cuda" else lambda run: run


class _RandomTensors:
    def __init__(self, arch: ModelArch, dtype: torch.dtype, device: torch.device) -> None:
        self._shapes = _shapes(arch)
        self._dtype = dtype
        self._device = device
        # where there are no numbers, none are drawn
        self._random = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

    def names(self) -> set[str]:
        return set(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, device=self._device)
        whole = torch.empty(shape, dtype=self._dtype, device=self._device)
        whole.normal_(0.0, shape[1] ** -0.5, generator=self._random)
        return whole if part is None else whole.narrow(part.dim, part.start, part.stop - part.start)

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        num_out, num_in = self._shapes[name]
        return cut(random_ints(num_out, num_in, 128 if num_in % 128 == 0 else 32, self._device), part)


def _shapes(arch: ModelArch) -> dict[str, tuple[int, ...]]:
    dim = arch.model_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (arch.vocab_size, dim),
        "model.norm.weight": (dim,),
        "lm_head.weight": (arch.vocab_size, dim),
    }
    for index, layer in enumerate(arch.layers):
        mixer = layer.mixer
        assert isinstance(mixer, SelfAttention) and layer.feed_forward is not None
        ffn_dim = layer.feed_forward.dim
        q_dim, kv_dim = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
        parts: dict[str, tuple[int, ...]] = {
            "input_layernorm": (dim,),
            "post_attention_layernorm": (dim,),
            "self_attn.q_proj": (q_dim, dim),
            "self_attn.k_proj": (kv_dim, dim),
            "self_attn.v_proj": (kv_dim, dim),
            "self_attn.o_proj": (dim, q_dim),
            "mlp.gate_proj": (ffn_dim, dim),
            "mlp.up_proj": (ffn_dim, dim),
            "mlp.down_proj": (dim, ffn_dim),
        }
        if mixer.qk_norm:
            parts |= {"self_attn.q_norm": (mixer.head_dim,), "self_attn.k_norm": (mixer.head_dim,)}
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in parts.items()}
    return shapes
