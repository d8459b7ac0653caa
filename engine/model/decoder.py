"""The decoder-only transformer: one model for every architecture that ModelArch can describe."""

from typing import Protocol

import torch
from torch import Tensor

from engine.arch.layer_spec import GatedDeltaNet as DeltaSpec
from engine.arch.layer_spec import LatentAttention as LatentSpec
from engine.arch.layer_spec import LayerSpec
from engine.arch.layer_spec import Mamba2 as MambaSpec
from engine.arch.layer_spec import Mixer as LayerMixer
from engine.arch.layer_spec import ParallelHeads as ParallelSpec
from engine.arch.layer_spec import ShortConv as ConvSpec
from engine.arch.model_arch import ModelArch
from engine.cache.kv_cache import KVCache
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.weights import Weights
from engine.model.attention import Attention
from engine.model.feed_forward import feed_forward
from engine.model.forward_batch import ForwardBatch, LayerBatch
from engine.model.gated_delta_net import GatedDeltaNet
from engine.model.latent_attention import LatentAttention
from engine.model.layer_weights import LayerWeights
from engine.model.linears import linear_of
from engine.model.mamba import Mamba2
from engine.model.norms import LayerNorms
from engine.model.parallel_heads import ParallelHeads
from engine.model.rotary_tables import RotaryTables
from engine.model.short_conv import ShortConv
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["Decoder"]


class Decoder:
    """Takes every weight, and raises ModelError for unused ones. Positions reach up to `max_model_len`.

    `arch` is the whole model's; this rank (`tp`) computes its shard.
    """

    def __init__(
        self,
        arch: ModelArch,
        weights: Weights,
        kernels: KernelSet,
        max_model_len: int,
        tp: TensorParallel | None = None,
    ) -> None:
        tp = tp or TensorParallel()
        self.arch = arch
        self._kernels = kernels
        self._tp = tp
        self._embedding_VM = weights.take("model.embed_tokens.weight", arch.vocab_size, arch.model_dim)
        self._embedding_scale = arch.embedding_scale
        if arch.rounds_embedding_scale:
            self._embedding_scale = torch.tensor(arch.embedding_scale, dtype=self._embedding_VM.dtype).item()
        tables = RotaryTables(arch, weights, max_model_len, weights.device)
        self._layers = [
            _Layer(spec, LayerWeights(arch, weights, kernels, index, tp), tables)
            for index, spec in enumerate(arch.layers)
        ]
        norm_M = weights.take("model.norm.weight", arch.model_dim, dtype=torch.float32)
        self._norm_M = norm_M + arch.norm_offset if arch.norm_offset else norm_M
        self._head = linear_of(kernels, [self._head_matrix(weights)], None, torch.float32)
        weights.finish(arch.tied)

    def _head_matrix(self, weights: Weights) -> Matrix:
        """This rank's rows of the LM head, zero-padded on the last rank."""
        num_tokens, share = self.arch.vocab_size, self._tp.rows(self.arch.vocab_size)
        if not self.arch.tied:
            head: Matrix = weights.take_matrix("lm_head.weight", num_tokens, self.arch.model_dim, part=share)
        else:
            ints = weights.take_group_quantized("model.embed_tokens.weight", share)
            head = self._embedding_VM[share.start : share.stop] if ints is None else ints
        missing = -(-num_tokens // self._tp.size) - head.shape[0]
        if missing == 0:
            return head
        dense = head.dense().to(self._embedding_VM.dtype) if isinstance(head, GroupQuantized) else head
        return torch.nn.functional.pad(dense, (0, 0, 0, missing))

    def forward(self, step: ForwardBatch, kv: KVCache) -> Tensor:
        """Computes the step, writes its keys and values, and returns [R, V] fp32 logits of the sampled rows."""
        return self.logits(self.hidden(step, kv))

    @torch.inference_mode()
    def hidden(self, step: ForwardBatch, kv: KVCache) -> Tensor:
        """The forward pass up to the LM head: [R, M] in the model's dtype."""
        x_TM = self._embed(step.tokens_T)
        # a residual stream in fp32: 60 sums in bfloat16 would decide near ties by rounding
        residual_TM = torch.zeros_like(x_TM, dtype=torch.float32)
        after_M, scale = None, self._embedding_scale  # pending: norm weights and scale of x
        for layer, batch, cache in zip(self._layers, self._layer_batches(step, kv), kv.layers, strict=True):
            norms = layer.norms
            x_TM = self._add_norm(x_TM, residual_TM, norms.before_attention_M, after_M, scale)
            after_M, scale = norms.after_ffn_M, self.arch.residual_scale
            if layer.mix is None or layer.feed_forward is None:
                x_TM = layer.only(x_TM, batch, cache)
            elif layer.is_parallel:
                x_TM = layer.mix(x_TM, batch, cache) + layer.feed_forward(x_TM)
            else:
                x_TM = layer.mix(x_TM, batch, cache)
                x_TM = self._add_norm(x_TM, residual_TM, norms.before_ffn_M, norms.after_attention_M, scale)
                x_TM = layer.feed_forward(x_TM)
        if step.sample_rows_R is not None:
            x_TM, residual_TM = x_TM[step.sample_rows_R], residual_TM[step.sample_rows_R]
        return self._add_norm(x_TM, residual_TM, self._norm_M, after_M, scale)

    @torch.inference_mode()
    def attend(self, step: ForwardBatch, kv: KVCache) -> Tensor:
        """The mixers alone, [T, M]: the part of a step that depends on sequence lengths."""
        x_TM = self._embed(step.tokens_T)
        for layer, batch, cache in zip(self._layers, self._layer_batches(step, kv), kv.layers, strict=True):
            x_TM = x_TM if layer.mix is None else layer.mix(x_TM, batch, cache)
        return x_TM

    @torch.inference_mode()
    def logits(self, x_RM: Tensor) -> Tensor:
        """[R, V] fp32."""
        if x_RM.shape[0] == 0:
            return x_RM.new_empty((0, self.arch.vocab_size), dtype=torch.float32)
        logits_RV = self._head(x_RM)
        if self.arch.logit_scale != 1.0:
            logits_RV = logits_RV * self.arch.logit_scale
        if self.arch.logit_cap:
            logits_RV = self._kernels.soft_cap(logits_RV, self.arch.logit_cap)
        return self._tp.gather_columns(logits_RV, self.arch.vocab_size)

    def _layer_batches(self, step: ForwardBatch, kv: KVCache) -> list[LayerBatch]:
        """What each layer's mixer takes of a step."""
        return [step.by_group[pages.group if pages is not None else 0] for pages in kv.layout.pages]

    def _embed(self, tokens_T: Tensor) -> Tensor:
        return self._kernels.embedding(self._embedding_VM, tokens_T)

    def _add_norm(
        self, x_TM: Tensor, residual_TM: Tensor, weight_M: Tensor | None, after_M: Tensor | None, scale: float
    ) -> Tensor:
        """Adds x to the residual stream and returns the norm of the sum."""
        if self.arch.norm == "layer":
            # LayerNorm subtracts the mean of a sum, which is the sum of the means: then it is RMSNorm
            x_TM = (x_TM.float() - x_TM.float().mean(-1, keepdim=True)).to(x_TM.dtype)
        return self._kernels.add_rms_norm(x_TM, residual_TM, weight_M, self.arch.norm_eps, after_M, scale)


class Mixer(Protocol):
    """What mixes a token with those before it: [T, M] -> [T, M], added up over ranks. Reads and writes the cache."""

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...], /) -> Tensor: ...


class _Layer:
    def __init__(self, spec: LayerSpec, weights: LayerWeights, tables: RotaryTables) -> None:
        self.is_parallel = spec.norms == "parallel"
        self.norms = LayerNorms(spec.norms, weights)
        self.mix = None if spec.mixer is None else _mixer(spec.mixer, weights, tables)
        self.feed_forward = None if spec.feed_forward is None else feed_forward(spec.feed_forward, weights)

    def only(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """Of a layer that has a mixer or a feed-forward alone."""
        if self.mix is not None:
            return self.mix(x_TM, batch, cache)
        assert self.feed_forward is not None
        return self.feed_forward(x_TM)


def _mixer(spec: LayerMixer, weights: LayerWeights, tables: RotaryTables) -> Mixer:
    match spec:
        case LatentSpec():
            return LatentAttention(spec, weights, tables.of(spec.rope))
        case DeltaSpec():
            return GatedDeltaNet(spec, weights)
        case ConvSpec():
            return ShortConv(spec, weights)
        case MambaSpec():
            return Mamba2(spec, weights)
        case ParallelSpec():
            return ParallelHeads(
                Attention(spec.attention, weights, tables.of(spec.attention.rope)), Mamba2(spec.mamba, weights)
            )
    return Attention(spec, weights, tables.of(spec.rope))
