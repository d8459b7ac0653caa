"""A decoder layer: its mixer and its feed-forward, each between the residual stream's norms."""

from typing import Protocol

from torch import Tensor

from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import GatedDeltaNet as DeltaSpec
from engine.arch.mixer_spec import KimiDeltaAttention as KimiDeltaSpec
from engine.arch.mixer_spec import LatentAttention as LatentSpec
from engine.arch.mixer_spec import LightningAttention as LightningSpec
from engine.arch.mixer_spec import Mamba2 as MambaSpec
from engine.arch.mixer_spec import Mixer as LayerMixer
from engine.arch.mixer_spec import ParallelHeads as ParallelSpec
from engine.arch.mixer_spec import ShortConv as ConvSpec
from engine.model.attention import Attention
from engine.model.feed_forward import feed_forward
from engine.model.forward_batch import LayerBatch
from engine.model.gated_delta_net import GatedDeltaNet
from engine.model.kimi_delta_attention import KimiDeltaAttention
from engine.model.latent_attention import LatentAttention
from engine.model.laurel import Laurel
from engine.model.layer_weights import LayerWeights
from engine.model.lightning_attention import LightningAttention
from engine.model.mamba import Mamba2
from engine.model.norms import LayerNorms
from engine.model.parallel_heads import ParallelHeads
from engine.model.per_layer_embedding import PerLayerGate
from engine.model.residual_stream import ResidualStream, Stream
from engine.model.rotary_tables import RotaryTables
from engine.model.short_conv import ShortConv

__all__ = ["DecoderLayer", "Mixer"]


class Mixer(Protocol):
    """What mixes a token with those before it: [T, M] -> [T, M], added up over ranks. Reads and writes the cache."""

    def __call__(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...], /) -> Tensor: ...


class DecoderLayer:
    def __init__(
        self, spec: LayerSpec, weights: LayerWeights, tables: RotaryTables, source: "Mixer | None" = None
    ) -> None:
        """`source`: the mixer whose keys and values, or whose choice of tokens, this one's reads; None: its own."""
        self._is_parallel = spec.norms in ("parallel", "parallel_apart")
        self._residual_scale = weights.arch.residual_scale
        self._norms = LayerNorms(spec, weights)
        self.mix: Mixer | None = None if spec.mixer is None else _mixer(spec.mixer, weights, tables, source)
        self._feed_forward = None if spec.feed_forward is None else feed_forward(spec.feed_forward, weights)
        self._normed_residual = spec.normed_residual
        self._shortcut = None if spec.shortcut is None else feed_forward(spec.shortcut, weights)
        self._laurel = Laurel(spec.laurel_rank, weights) if spec.laurel_rank else None
        embedding = weights.arch.per_layer_embedding
        self._per_layer_gate = None
        if embedding is not None and weights.arch.altup is None:  # alternating updates have the gate elsewhere
            self._per_layer_gate = PerLayerGate(embedding, weights)
        self._output_scale = weights.take("layer_scalar", 1).item() if spec.output_scale else 1.0

    def __call__(
        self, stream: Stream, batch: LayerBatch, cache: tuple[Tensor, ...], embedded_TP: Tensor | None
    ) -> None:
        """`embedded_TP`: the tokens' embedding of this layer, where layers have one."""
        assert isinstance(stream, ResidualStream)
        norms, scale = self._norms, self._residual_scale
        x_TM = stream.norm(norms.before_attention_M, norms.before_attention_bias_M)
        if self.mix is None or self._feed_forward is None:
            stream.add(self._only(x_TM, batch, cache), norms.after_ffn_M, scale)
        elif self._is_parallel:
            y_TM = x_TM
            if norms.before_ffn_M is not None:
                y_TM = stream.norm_again(norms.before_ffn_M, norms.before_ffn_bias_M)
            stream.add(self.mix(x_TM, batch, cache) + self._feed_forward(y_TM), norms.after_ffn_M, scale)
        elif (normed := self._normed_residual) is not None:
            stream.restart(x_TM, normed.mixer_input)
            stream.add(self.mix(x_TM, batch, cache), None, normed.mixer_output)
            x_TM = stream.norm(norms.before_ffn_M, norms.before_ffn_bias_M)
            stream.restart(x_TM, normed.ffn_input)
            stream.add(self._feed_forward(x_TM), None, normed.ffn_output)
        else:
            stream.add(self.mix(x_TM, batch, cache), norms.after_attention_M, scale)
            if self._laurel is not None:
                self._add_laurel(stream, self._laurel(x_TM))
            x_TM = stream.norm(norms.before_ffn_M, norms.before_ffn_bias_M)
            deferred_TM = stream.defer(None if self._shortcut is None else self._shortcut(x_TM))
            x_TM = self._feed_forward(x_TM)
            stream.add(x_TM if deferred_TM is None else x_TM + deferred_TM, norms.after_ffn_M, scale)
        if self._per_layer_gate is not None:
            assert embedded_TP is not None
            stream.add(self._per_layer_gate(stream.norm(None), embedded_TP), self._per_layer_gate.norm_M)
        if self._output_scale != 1.0:
            stream.multiply(self._output_scale)

    @staticmethod
    def _add_laurel(stream: ResidualStream, x_TM: Tensor) -> None:
        """The mean of both, but for a factor that keeps the size of independent ones."""
        stream.norm(None)  # adds up what is pending
        stream.add(x_TM)
        stream.multiply(2**-0.5)

    def _only(self, x_TM: Tensor, batch: LayerBatch, cache: tuple[Tensor, ...]) -> Tensor:
        """Of a layer that has a mixer or a feed-forward alone."""
        if self.mix is not None:
            return self.mix(x_TM, batch, cache)
        assert self._feed_forward is not None
        return self._feed_forward(x_TM)


def _mixer(spec: LayerMixer, weights: LayerWeights, tables: RotaryTables, source: Mixer | None) -> Mixer:
    match spec:
        case LatentSpec():
            assert source is None or isinstance(source, LatentAttention)
            return LatentAttention(spec, weights, tables.of(spec.rope), source)
        case DeltaSpec():
            return GatedDeltaNet(spec, weights)
        case KimiDeltaSpec():
            return KimiDeltaAttention(spec, weights)
        case LightningSpec():
            return LightningAttention(spec, weights)
        case ConvSpec():
            return ShortConv(spec, weights)
        case MambaSpec():
            return Mamba2(spec, weights)
        case ParallelSpec():
            return ParallelHeads(
                Attention(spec.attention, weights, tables.of(spec.attention.rope)), Mamba2(spec.mamba, weights)
            )
    assert source is None or isinstance(source, Attention)
    return Attention(spec, weights, tables.of(spec.rope), source)
