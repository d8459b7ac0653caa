"""Alternating updates (AltUp, arXiv 2301.13310), as Gemma 3n has them: several residual streams, of which a layer
computes with one and predicts the others.
"""

from functools import reduce

import torch
from torch import Tensor

from engine.arch.layer_spec import AltUp as Spec
from engine.arch.model_arch import ModelArch
from engine.checkpoint.weights import Weights
from engine.model.decoder_layer import DecoderLayer
from engine.model.forward_batch import LayerBatch
from engine.model.layer_weights import LayerWeights
from engine.model.per_layer_embedding import PerLayerGate
from engine.model.residual_stream import ResidualStream, Stream
from kernels.kernel_set import KernelSet
from kernels.rms_norm.reference import rms_norm

__all__ = ["AltUp", "AltUpLayer", "AltUpStream"]

LEAST_SQUARE = 1e-5  # mean square by which a stream is divided at least


class AltUp:
    """Makes several streams of the embedding, and one of them at the end. Every rank has all of it."""

    def __init__(self, spec: Spec, arch: ModelArch, weights: Weights, kernels: KernelSet) -> None:
        dim, others = arch.model_dim, range(spec.num_streams - 1)
        self._arch, self._kernels = arch, kernels
        self._projections, self._unembed_projections = (
            [kernels.linear(weights.take(f"model.{name}.{index}.weight", dim, dim)) for index in others]
            for name in ("altup_projections", "altup_unembed_projections")
        )

    def begin(self, x_TM: Tensor) -> "AltUpStream":
        """Of embeddings, scaled."""
        others = [_as_large_as(project(x_TM), x_TM) for project in self._projections]
        return AltUpStream(self, torch.stack([x_TM.float(), *others]), x_TM.dtype)

    def end(self, values_ATM: Tensor, weight_M: Tensor, dtype: torch.dtype) -> Tensor:
        """[T, M], normed."""
        first_TM = values_ATM[0]
        pairs = zip(self._unembed_projections, values_ATM[1:], strict=True)
        others = [_as_large_as(project(one_TM.to(dtype)), first_TM) for project, one_TM in pairs]
        mean_TM = reduce(torch.add, others, first_TM) / len(values_ATM)
        return ResidualStream.of_sum(self._arch, self._kernels, mean_TM, dtype).norm(weight_M)


class AltUpStream:
    """The residual streams, [A, T, M] fp32."""

    def __init__(self, altup: AltUp, values_ATM: Tensor, dtype: torch.dtype) -> None:
        self._altup = altup
        self.values_ATM, self.dtype = values_ATM, dtype

    def select(self, rows_R: Tensor) -> None:
        """Keeps these rows alone."""
        self.values_ATM = self.values_ATM[:, rows_R]

    def norm(self, weight_M: Tensor, bias_M: Tensor | None = None) -> Tensor:
        assert bias_M is None
        return self._altup.end(self.values_ATM, weight_M, self.dtype)


class AltUpLayer:
    """A decoder layer between the prediction of all streams and their correction by what came out of it."""

    def __init__(self, layer: DecoderLayer, spec: Spec, weights: LayerWeights) -> None:
        arch, count = weights.arch, spec.num_streams
        self._layer, self._arch, self._kernels = layer, arch, weights.kernels
        self.mix = layer.mix
        fp32 = torch.float32
        self._router_norm_M = weights.take_norm("altup.router_norm", arch.model_dim) / arch.model_dim
        router_AM = weights.take("altup.modality_router.weight", count, arch.model_dim)
        self._router = weights.kernels.linear(router_AM, None, fp32)
        self._predict_AAA = weights.take("altup.prediction_coefs.weight", count * count, count, dtype=fp32).view(
            count, count, count
        )
        self._correct_AA = weights.take("altup.correction_coefs.weight", count, count, dtype=fp32)
        scale_M = weights.take("altup.correct_output_scale", arch.model_dim, dtype=fp32)
        self._scale_M = scale_M if spec.scales_corrected else torch.ones_like(scale_M)
        assert arch.per_layer_embedding is not None
        self._per_layer_gate = PerLayerGate(arch.per_layer_embedding, weights)

    def __call__(
        self, stream: Stream, batch: LayerBatch, cache: tuple[Tensor, ...], embedded_TP: Tensor | None
    ) -> None:
        """As a DecoderLayer."""
        assert isinstance(stream, AltUpStream) and embedded_TP is not None
        predicted_ATM = self._predicted(stream)
        inner = ResidualStream.of_sum(self._arch, self._kernels, predicted_ATM[0].clone(), stream.dtype)
        self._layer(inner, batch, cache, None)
        activated_TM = inner.total()
        modalities_TA = self._modalities(activated_TM, stream.dtype)
        news_TM = activated_TM - predicted_ATM[0]
        coefs_TA = _dot(modalities_TA, self._correct_AA) + 1.0
        values_ATM = predicted_ATM + news_TM * coefs_TA.T[..., None]
        gated_TM = self._per_layer_gate((values_ATM[0] * self._scale_M).to(stream.dtype), embedded_TP)
        values_ATM[1:] += rms_norm(gated_TM.float(), self._per_layer_gate.norm_M, self._arch.norm_eps)
        stream.values_ATM = values_ATM

    def _predicted(self, stream: AltUpStream) -> Tensor:
        """[A, T, M]: every stream, plus a sum of all of them by coefficients of each token."""
        values_ATM = stream.values_ATM
        modalities_TA = self._modalities(values_ATM[0], stream.dtype)
        predicted = []
        for value_TM, weight_AA in zip(values_ATM, self._predict_AAA, strict=True):
            coefs_TA = _dot(modalities_TA, weight_AA)
            parts = [one_TM * coefs_TA[:, index, None] for index, one_TM in enumerate(values_ATM)]
            predicted.append(reduce(torch.add, parts) + value_TM)
        return torch.stack(predicted)

    def _modalities(self, x_TM: Tensor, dtype: torch.dtype) -> Tensor:
        """[T, A] fp32."""
        logits_TA = self._router(rms_norm(x_TM, self._router_norm_M, self._arch.norm_eps).to(dtype))
        return 2 * self._kernels.unary(2 * logits_TA, "sigmoid") - 1  # tanh


def _dot(x_TA: Tensor, weight_BA: Tensor) -> Tensor:
    """[T, B]: x @ weight.T, summed in one order whatever T is."""
    parts: list[Tensor] = [x_T[:, None] * weight_B for x_T, weight_B in zip(x_TA.T, weight_BA.T, strict=True)]
    return reduce(torch.add, parts)


def _as_large_as(x_TM: Tensor, other_TM: Tensor) -> Tensor:
    """x in fp32, scaled to the root mean square of another."""
    x_TM = x_TM.float()
    square_T1, wanted_T1 = (one.square().mean(-1, keepdim=True) for one in (x_TM, other_TM.float()))
    return x_TM * wanted_T1.sqrt() / square_T1.clamp(min=LEAST_SQUARE).sqrt()
