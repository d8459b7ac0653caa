"""Per-layer embeddings (Gemma 3n and 4): each layer has an embedding of its own, which gates what comes out of it."""

import torch
from torch import Tensor

from engine.arch.layer_spec import PerLayerEmbedding as Spec
from engine.arch.model_arch import ModelArch
from engine.checkpoint.weights import Weights
from engine.model.layer_weights import LayerWeights
from kernels.kernel_set import KernelSet
from kernels.rms_norm.reference import rms_norm

__all__ = ["PerLayerEmbedding", "PerLayerGate"]


class PerLayerEmbedding:
    """Of each token in each layer: the mean of an embedding and of a projection of the model's own embedding."""

    def __init__(self, spec: Spec, arch: ModelArch, weights: Weights, kernels: KernelSet) -> None:
        """Every rank has all of it."""
        self._spec, self._arch, self._kernels = spec, arch, kernels
        width = arch.num_layers * spec.dim
        self._embedding_VX = weights.take("model.embed_tokens_per_layer.weight", spec.vocab_size, width)
        self._embedding_scale = torch.tensor(spec.dim**0.5, dtype=weights.dtype).item()
        self._project = kernels.linear(weights.take("model.per_layer_model_projection.weight", width, arch.model_dim))
        name = "model.per_layer_projection_norm.weight"
        self._norm_P = weights.take(name, spec.dim, dtype=torch.float32) + arch.norm_offset

    def __call__(self, tokens_T: Tensor, x_TM: Tensor) -> Tensor:
        """[T, L, P] in the model's dtype, of tokens and their embeddings."""
        if self._spec.vocab_size < self._arch.vocab_size:
            tokens_T = tokens_T.where(tokens_T < self._spec.vocab_size, 0)
        shape = len(tokens_T), self._arch.num_layers, self._spec.dim
        embedded_TLP = self._kernels.embedding(self._embedding_VX, tokens_T).view(shape).float()
        projected_TLP = self._project(x_TM).view(shape).float() * self._arch.model_dim**-0.5
        normed_TLP = rms_norm(projected_TLP, self._norm_P, self._arch.norm_eps)
        return ((normed_TLP + embedded_TLP * self._embedding_scale) * 2**-0.5).to(x_TM.dtype)


class PerLayerGate:
    """project(activation(gate(x)) * embedding), to be added to the residual stream after a norm."""

    def __init__(self, spec: Spec, layer: LayerWeights) -> None:
        dim = layer.arch.model_dim
        self._activation, self._kernels = spec.activation, layer.kernels
        self._gate = layer.kernels.linear(layer.take("per_layer_input_gate.weight", spec.dim, dim))
        self._project = layer.kernels.linear(layer.take("per_layer_projection.weight", dim, spec.dim))
        self.norm_M = layer.take_norm("post_per_layer_input_norm", dim)

    def __call__(self, x_TM: Tensor, embedded_TP: Tensor) -> Tensor:
        """[T, M], the same on every rank."""
        gate_up_TX = torch.cat((self._gate(x_TM), embedded_TP), 1)
        return self._project(self._kernels.gated_activation(gate_up_TX, self._activation))
