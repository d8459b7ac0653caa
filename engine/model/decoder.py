"""The model: one decoder for every architecture that ModelArch can describe."""

import torch
from torch import Tensor

from engine.batch import ForwardBatch
from engine.kv_store import KVStore
from engine.model.arch import ModelArch
from engine.model.kv_scales import take_kv_scale
from engine.model.matrix import linear_of
from engine.model.norms import LayerNorms, QkNorms, take_norm
from engine.model.rotary_tables import RotaryTables
from engine.model.weights import Weights
from engine.tensor_parallel import Part, TensorParallel
from kernels.kernel_set import KernelSet, LinearKernel

__all__ = ["Decoder"]


class Decoder:
    """Takes every weight it needs and complains about those left over. Positions reach up to `max_context_len`.

    `arch` is the whole model's; of it this rank (`tp`) computes its share.
    """

    def __init__(
        self,
        arch: ModelArch,
        weights: Weights,
        kernels: KernelSet,
        max_context_len: int,
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
        tables = RotaryTables(arch, weights, max_context_len, self._embedding_VM.device)
        self._layers = [_Layer(arch, weights, kernels, tables, index, tp) for index in range(arch.num_layers)]
        self._norm_M = take_norm(weights, "model.norm", arch.model_dim, arch)
        share = tp.rows(arch.vocab_size)
        if arch.tied:
            head_VM = self._embedding_VM[share.start : share.stop]
        else:
            head_VM = weights.take("lm_head.weight", arch.vocab_size, arch.model_dim, part=share)
        width = -(-arch.vocab_size // tp.size)  # the last rank's share may be smaller, and is filled up
        if len(head_VM) < width:
            head_VM = torch.nn.functional.pad(head_VM, (0, 0, 0, width - len(head_VM)))
        self._head = kernels.linear(head_VM, None, torch.float32)
        weights.finish(arch.tied)

    def forward(self, batch: ForwardBatch, kv: KVStore) -> Tensor:
        """Computes the batch, writes its keys and values, and returns [R, V] fp32 logits of the sampled rows."""
        return self.logits(self.hidden(batch, kv))

    @torch.inference_mode()
    def hidden(self, batch: ForwardBatch, kv: KVStore) -> Tensor:
        """The same up to the head: [R, M] in the model's dtype."""
        add_norm, eps = self._kernels.add_rms_norm, self.arch.norm_eps
        x_TM = self._kernels.embedding(self._embedding_VM, batch.tokens_T)
        # 60 sums in bfloat16 would decide between near ties by rounding alone
        residual_TM = torch.zeros_like(x_TM, dtype=torch.float32)
        after_M, scale = None, self._embedding_scale  # what x is still to be normed and multiplied with
        for layer, cache in zip(self._layers, kv.layers, strict=True):
            x_TM = add_norm(x_TM, residual_TM, layer.norms.before_attention_M, eps, after_M, scale)
            x_TM = layer.attend(x_TM, batch, cache)
            after_M, scale = layer.norms.after_attention_M, self.arch.residual_scale
            x_TM = add_norm(x_TM, residual_TM, layer.norms.before_ffn_M, eps, after_M, scale)
            x_TM = layer.feed_forward(x_TM)
            after_M = layer.norms.after_ffn_M
        rows = batch.sample_rows_R
        return add_norm(x_TM[rows], residual_TM[rows], self._norm_M, eps, after_M, scale)

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
        return self._tp.join_columns(logits_RV, self.arch.vocab_size)


class _Layer:
    def __init__(
        self,
        arch: ModelArch,
        weights: Weights,
        kernels: KernelSet,
        tables: RotaryTables,
        index: int,
        tp: TensorParallel,
    ) -> None:
        self._arch = arch
        self._kernels = kernels
        self._tp = tp
        self._window = arch.windows[index]
        self._scale = arch.head_dim**-0.5 if arch.attention_scale is None else arch.attention_scale
        self._cos_sin_CR = tables.of_layer(index)
        at = f"model.layers.{index}"
        dim, head_dim, ffn_dim = arch.model_dim, arch.head_dim, arch.ffn_dim
        q_dim, kv_dim = arch.num_heads * head_dim, arch.num_kv_heads * head_dim

        def cut_by_outputs(parts: dict[str, tuple[int, Part]], in_dim: int, bias: bool) -> LinearKernel:
            """One matrix of several, stacked, of each this rank's rows."""
            matrices = [
                weights.take_matrix(f"{at}.{name}.weight", dim, in_dim, part=part)
                for name, (dim, part) in parts.items()
            ]
            biases = [weights.take(f"{at}.{name}.bias", dim, part=part) for name, (dim, part) in parts.items() if bias]
            return linear_of(kernels, matrices, torch.cat(biases) if biases else None)

        def cut_by_inputs(name: str, in_dim: int, part: Part, bias: bool) -> LinearKernel:
            """This rank's columns; the first rank adds the bias."""
            matrix = weights.take_matrix(f"{at}.{name}.weight", dim, in_dim, part=part)
            bias_M = weights.take(f"{at}.{name}.bias", dim) if bias else None
            return linear_of(kernels, [matrix], bias_M if tp.rank == 0 else None)

        self.norms = LayerNorms(arch, weights, at)
        q_rows, kv_rows = tp.rows(arch.num_heads, head_dim), tp.kv_rows(arch.num_kv_heads, head_dim)
        self._qkv = cut_by_outputs(
            {
                "self_attn.q_proj": (q_dim, q_rows),
                "self_attn.k_proj": (kv_dim, kv_rows),
                "self_attn.v_proj": (kv_dim, kv_rows),
            },
            dim,
            arch.qkv_bias,
        )
        self._qk_norms = QkNorms(arch, weights, kernels, at, q_rows, kv_rows, tp)
        self._kv_scales = tuple(take_kv_scale(weights, index, which, arch, tp) for which in "kv")
        self._out = cut_by_inputs("self_attn.o_proj", q_dim, tp.columns(arch.num_heads, head_dim), arch.out_bias)
        inner = ffn_dim, tp.rows(ffn_dim)
        self._gate_up = cut_by_outputs({"mlp.gate_proj": inner, "mlp.up_proj": inner}, dim, arch.ffn_bias)
        self._down = cut_by_inputs("mlp.down_proj", ffn_dim, tp.columns(ffn_dim), arch.ffn_bias)

    def attend(self, x_TM: Tensor, batch: ForwardBatch, cache: tuple[Tensor, Tensor]) -> Tensor:
        # other dtypes than float8 have room for all numbers that there are
        k_scale_G, v_scale_G = self._kv_scales if cache[0].dtype == torch.float8_e4m3fn else (None, None)
        qkv_TX = self._qkv(x_TM)
        q_THD = self._kernels.qkv_rotary(
            qkv_TX,
            self._qk_norms.q_norm,
            self._qk_norms.k_norm,
            self._arch.norm_eps,
            self._cos_sin_CR,
            batch.positions_T,
            batch.slots_T,
            *cache,
            k_scale_G,
            v_scale_G,
            self._qk_norms.squares(qkv_TX),
        )
        out_THD = self._kernels.paged_attention(
            q_THD,
            *cache,
            batch.query_starts,
            batch.seq_lens_S,
            batch.block_table_SW,
            self._scale,
            self._window,
            self._arch.attention_cap,
            k_scale_G=k_scale_G,
            v_scale_G=v_scale_G,
            prefixes=batch.prefixes,
        )
        return self._tp.sum(self._out(out_THD.flatten(1)))

    def feed_forward(self, x_TM: Tensor) -> Tensor:
        return self._tp.sum(self._down(self._kernels.gated_activation(self._gate_up(x_TM), self._arch.activation)))
