"""The decoder-only transformer: one model for every architecture that ModelArch can describe."""

import torch
from torch import Tensor

from engine.arch.mixer_spec import source_layer
from engine.arch.model_arch import ModelArch
from engine.cache.kv_cache import KVCache
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.weights import Weights
from engine.model.altup import AltUp, AltUpLayer
from engine.model.decoder_layer import DecoderLayer
from engine.model.forward_batch import ForwardBatch, LayerBatch
from engine.model.layer_weights import LayerWeights
from engine.model.linears import linear_of
from engine.model.per_layer_embedding import PerLayerEmbedding
from engine.model.residual_stream import ResidualStream, Stream
from engine.model.rotary_tables import RotaryTables
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet
from kernels.quantized_linear.reference import GroupQuantized
from kernels.rms_norm.reference import rms_norm

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
        self._altup = None if arch.altup is None else AltUp(arch.altup, arch, weights, kernels)
        self._layers: list[DecoderLayer | AltUpLayer] = []
        for index, spec in enumerate(arch.layers):
            read = source_layer(spec.mixer)
            layer = LayerWeights(arch, weights, kernels, index, tp)
            made = DecoderLayer(spec, layer, tables, None if read is None else self._layers[read].mix)
            self._layers.append(made if arch.altup is None else AltUpLayer(made, arch.altup, layer))
        self._first_reader = _first_reader(arch)
        self._per_layer_embedding = None
        if arch.per_layer_embedding is not None:
            self._per_layer_embedding = PerLayerEmbedding(arch.per_layer_embedding, arch, weights, kernels)
        self._norm_M, self._norm_bias_M = _final_norm(arch, weights)
        self._head = linear_of(kernels, [self._head_matrix(weights)], self._head_bias(weights), torch.float32)
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

    def _head_bias(self, weights: Weights) -> Tensor | None:
        """Of this rank's rows of the LM head, zero-padded as they are."""
        if not self.arch.head_bias:
            return None
        num_tokens, share = self.arch.vocab_size, self._tp.rows(self.arch.vocab_size)
        bias = weights.take("lm_head.bias", num_tokens, part=share)
        return torch.nn.functional.pad(bias, (0, -(-num_tokens // self._tp.size) - len(bias)))

    def forward(self, step: ForwardBatch, kv: KVCache) -> Tensor:
        """Computes the step, writes its keys and values, and returns [R, V] fp32 logits of the sampled rows."""
        return self.logits(self.hidden(step, kv))

    @torch.inference_mode()
    def hidden(self, step: ForwardBatch, kv: KVCache) -> Tensor:
        """The forward pass up to the LM head: [R, M] in the model's dtype."""
        x_TM = self._embed(step.tokens_T)
        embedded_TLP = self._embed_per_layer(step.tokens_T, x_TM)
        stream, batches = self._stream(x_TM), self._layer_batches(step, kv)
        for index, (layer, cache) in enumerate(zip(self._layers, kv.layers, strict=True)):
            if index == self._first_reader and step.samples_last and (rows_R := step.sample_rows_R) is not None:
                stream.select(rows_R)
                embedded_TLP = None if embedded_TLP is None else embedded_TLP[rows_R]
                step = step.sampled()
                batches = self._layer_batches(step, kv)
            if len(step.tokens_T) == 0:
                break  # of a prompt that goes on, nothing else is to be written
            layer(stream, batches[index], cache, None if embedded_TLP is None else embedded_TLP[:, index])
        if step.sample_rows_R is not None:
            stream.select(step.sample_rows_R)
        return stream.norm(self._norm_M, self._norm_bias_M)

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

    def _embed_per_layer(self, tokens_T: Tensor, x_TM: Tensor) -> Tensor | None:
        """[T, L, P]; None: layers have no embeddings."""
        if self._per_layer_embedding is None:
            return None
        return self._per_layer_embedding(tokens_T, self._scaled(x_TM))

    def _stream(self, x_TM: Tensor) -> Stream:
        if self.arch.normed_embedding:
            ones_M = torch.ones(self.arch.model_dim, device=x_TM.device)
            x_TM = rms_norm(x_TM, ones_M, self.arch.norm_eps)
        if self._altup is None:
            return ResidualStream(self.arch, self._kernels, x_TM, self._embedding_scale)
        return self._altup.begin(self._scaled(x_TM))

    def _scaled(self, x_TM: Tensor) -> Tensor:
        return (x_TM.float() * self._embedding_scale).to(x_TM.dtype)


def _first_reader(arch: ModelArch) -> int:
    """The layer from which on none writes to the cache: of a prompt, they need only the rows that are sampled."""
    writers = [index for index in range(arch.num_layers) if arch.kv_layer(index) == index]
    return writers[-1] + 1


def _final_norm(arch: ModelArch, weights: Weights) -> tuple[Tensor, Tensor | None]:
    """Weight and bias [M] fp32 of the norm before the LM head, the architecture's offset added."""
    if not arch.norm_parameters:
        return torch.ones(arch.model_dim, device=weights.device), None
    weight_M = weights.take("model.norm.weight", arch.model_dim, dtype=torch.float32)
    bias_M = None
    if arch.norm_parameters == "weight and bias":
        bias_M = weights.take("model.norm.bias", arch.model_dim, dtype=torch.float32)
    return weight_M + arch.norm_offset if arch.norm_offset else weight_M, bias_M
