"""The kernel set: the one place that chooses kernels, an implementation for each operation."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels import operations as ops
from kernels.causal_conv.reference import causal_conv
from kernels.embedding.reference import embedding
from kernels.experts.reference import Experts, route
from kernels.experts.routing import route_by_scores
from kernels.gated_activation.reference import gated_activation
from kernels.gated_delta_rule.reference import gated_delta_rule
from kernels.head_linear.reference import HeadLinear
from kernels.latent_attention.reference import latent_attention
from kernels.latent_rotary.reference import latent_rotary
from kernels.launch import prepare_cache
from kernels.linear import onednn
from kernels.linear.reference import Linear
from kernels.logit_mask.reference import add_bias, allow_bits, allow_only, forbid
from kernels.logprobs.reference import logprobs
from kernels.native.compiler import Compiler, find_compiler
from kernels.native.recorder import CallRecorder
from kernels.native.row_product import HasProduct
from kernels.native.weight_memory import WeightMemory
from kernels.paged_attention.reference import paged_attention
from kernels.penalties.reference import penalties
from kernels.qkv_rotary.reference import qkv_rotary
from kernels.quantized_linear.reference import GroupQuantized
from kernels.rms_norm.reference import add_rms_norm
from kernels.sampling.reference import choose, keep_min_p, keep_top_k, keep_top_p, scale_temperature
from kernels.selective_scan.reference import selective_scan
from kernels.soft_cap.reference import soft_cap
from kernels.sparse_indexer.reference import choose_tokens, index_rotary
from kernels.square_sums.reference import square_sums
from kernels.unary.reference import unary

__all__ = ["KernelSet", "load_kernels", "triton_kernels"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KernelSet:
    """One implementation of every operation. Contracts are in kernels/<op>/reference.py.

    The operations that touch the KV cache agree on how a block is laid out in it; nobody else may look inside.
    """

    name: str
    deterministic: bool  # a row's logits are bitwise the same alone, in any batch and in any chunk
    linear: ops.LinearPacker  # (weight_OI, bias_O | None, out_dtype | None) -> the packed matrix
    quantized_linear: ops.QuantizedLinearPacker | None  # the same of GroupQuantized; None: they must be made dense
    embedding: ops.Embedding
    add_rms_norm: ops.AddRmsNorm
    square_sums: ops.SquareSums
    qkv_rotary: ops.QkvRotary
    paged_attention: ops.PagedAttention
    latent_rotary: ops.LatentRotary
    latent_attention: ops.LatentAttention
    index_rotary: ops.IndexRotary
    choose_tokens: ops.ChooseTokens
    head_linear: ops.HeadLinearPacker
    causal_conv: ops.CausalConv
    gated_delta_rule: ops.GatedDeltaRule
    selective_scan: ops.SelectiveScan
    unary: ops.Unary
    gated_activation: ops.GatedActivation
    route: ops.Route
    route_by_scores: ops.RouteByScores
    experts: ops.ExpertsPacker  # (matrices of each expert, activation) -> the packed experts
    experts_keep_ints: bool  # these matrices may be GroupQuantized
    soft_cap: ops.SoftCap
    allow_bits: ops.AllowBits
    allow_only: ops.AllowOnly
    forbid: ops.Forbid
    add_bias: ops.AddBias
    penalties: ops.Penalties
    scale_temperature: ops.Filter
    keep_min_p: ops.Filter
    keep_top_k: ops.Filter
    keep_top_p: ops.Filter
    choose: ops.Choose
    logprobs: ops.Logprobs
    recorder: CallRecorder | None = None  # of the layers' kernels; None: their calls cannot be recorded


def load_kernels(
    device: torch.device,
    dtype: torch.dtype,
    deterministic: bool = False,
    cache_dtype: torch.dtype | None = None,
    int8_activations: bool = False,
    memory: WeightMemory | None = None,
) -> KernelSet:
    """The fastest kernels for a device, the model's dtype and its KV cache's. A chosen kernel that does not import or
    compile is an error. Triton's are compiled at their first call.

    Asked for deterministic ones, it may still return others: where there are none. `int8_activations` lets a CPU round
    the inputs of group-quantized layers to 8 bits, where that is faster. Compiled kernels pack weights to `memory`;
    None: memory of this process.
    """
    if device.type == "cuda":
        prepare_cache()
        return triton_kernels(deterministic)
    if device.type != "cpu":
        return _reference_kernels()
    kernels = _cpu_kernels(dtype, int8_activations, memory)
    if cache_dtype in (None, dtype):
        return kernels
    # the compiled ones know one dtype; those two go together
    return replace(kernels, deterministic=False, qkv_rotary=qkv_rotary, paged_attention=paged_attention, recorder=None)


def _cpu_kernels(dtype: torch.dtype, int8_activations: bool, memory: WeightMemory | None) -> KernelSet:
    kernels = _reference_kernels()
    compiler = find_compiler()
    if compiler is not None:
        kernels = _with_compiled_sampling(kernels, compiler)
        if dtype != torch.bfloat16:
            return kernels
        return _with_compiled_layers(kernels, compiler, int8_activations, memory)
    log.warning("no C compiler (gcc, cc or clang) was found: the CPU kernels are plain torch, and several times slower")
    packs = dtype == torch.bfloat16 and onednn.is_supported()
    return replace(kernels, linear=onednn.Linear) if packs else kernels


def triton_kernels(deterministic: bool = False) -> KernelSet:
    """For a GPU, or for CPU tensors where TRITON_INTERPRET=1 was set before the first call."""
    from kernels.causal_conv import triton as causal_conv_triton
    from kernels.embedding import triton as embedding_triton
    from kernels.experts import triton as experts_triton
    from kernels.gated_activation import triton as gated_activation_triton
    from kernels.gated_delta_rule import triton as gated_delta_rule_triton
    from kernels.head_linear import cuda as head_linear_cuda
    from kernels.latent_attention import triton as latent_attention_triton
    from kernels.latent_rotary import triton as latent_rotary_triton
    from kernels.linear import cuda as linear_cuda
    from kernels.logit_mask import triton as logit_mask_triton
    from kernels.logprobs import triton as logprobs_triton
    from kernels.paged_attention import triton as paged_attention_triton
    from kernels.penalties import triton as penalties_triton
    from kernels.qkv_rotary import triton as qkv_rotary_triton
    from kernels.quantized_linear import triton as quantized_linear_triton
    from kernels.rms_norm import triton as rms_norm_triton
    from kernels.sampling import filters_triton
    from kernels.sampling import triton as sampling_triton
    from kernels.selective_scan import triton as selective_scan_triton
    from kernels.soft_cap import triton as soft_cap_triton
    from kernels.sparse_indexer import triton as sparse_indexer_triton
    from kernels.square_sums import triton as square_sums_triton

    # the library may otherwise add up parts of a sum in 16 bits, which kernels/linear does not allow
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    kernels = replace(
        _reference_kernels(),
        name="triton",
        linear=linear_cuda.Linear,
        quantized_linear=partial(quantized_linear_triton.QuantizedLinear, batch_invariant=deterministic),
        embedding=embedding_triton.embedding,
        add_rms_norm=rms_norm_triton.add_rms_norm,
        square_sums=square_sums_triton.square_sums,
        qkv_rotary=qkv_rotary_triton.qkv_rotary,
        paged_attention=paged_attention_triton.paged_attention,
        latent_rotary=latent_rotary_triton.latent_rotary,
        latent_attention=latent_attention_triton.latent_attention,
        index_rotary=sparse_indexer_triton.index_rotary,
        choose_tokens=sparse_indexer_triton.choose_tokens,
        head_linear=head_linear_cuda.HeadLinear,
        causal_conv=causal_conv_triton.causal_conv,
        gated_delta_rule=gated_delta_rule_triton.gated_delta_rule,
        selective_scan=selective_scan_triton.selective_scan,
        gated_activation=gated_activation_triton.gated_activation,
        route=experts_triton.route,
        experts=experts_triton.Experts,
        soft_cap=soft_cap_triton.soft_cap,
        allow_bits=logit_mask_triton.allow_bits,
        allow_only=logit_mask_triton.allow_only,
        forbid=logit_mask_triton.forbid,
        add_bias=logit_mask_triton.add_bias,
        penalties=penalties_triton.penalties,
        keep_min_p=filters_triton.keep_min_p,
        keep_top_k=filters_triton.keep_top_k,
        keep_top_p=filters_triton.keep_top_p,
        choose=sampling_triton.choose,
        logprobs=logprobs_triton.logprobs,
    )
    if not deterministic:
        return kernels
    from kernels.linear import triton as linear_triton

    uncut = partial(paged_attention_triton.paged_attention, cut=False)
    return replace(
        kernels,
        deterministic=True,
        linear=linear_triton.Linear,
        paged_attention=uncut,
        latent_attention=partial(latent_attention_triton.latent_attention, cut=False),
        head_linear=partial(HeadLinear, linear=linear_triton.Linear),
    )


def _reference_kernels() -> KernelSet:
    return KernelSet(
        name="reference",
        deterministic=False,
        linear=Linear,
        quantized_linear=None,
        embedding=embedding,
        add_rms_norm=add_rms_norm,
        square_sums=square_sums,
        qkv_rotary=qkv_rotary,
        paged_attention=paged_attention,
        latent_rotary=latent_rotary,
        latent_attention=latent_attention,
        index_rotary=index_rotary,
        choose_tokens=choose_tokens,
        head_linear=HeadLinear,
        causal_conv=causal_conv,
        gated_delta_rule=gated_delta_rule,
        selective_scan=selective_scan,
        unary=unary,
        gated_activation=gated_activation,
        route=route,
        route_by_scores=route_by_scores,
        experts=Experts,
        experts_keep_ints=False,
        soft_cap=soft_cap,
        allow_bits=allow_bits,
        allow_only=allow_only,
        forbid=forbid,
        add_bias=add_bias,
        penalties=penalties,
        scale_temperature=scale_temperature,
        keep_min_p=keep_min_p,
        keep_top_k=keep_top_k,
        keep_top_p=keep_top_p,
        choose=choose,
        logprobs=logprobs,
    )


def _with_compiled_sampling(kernels: KernelSet, compiler: Compiler) -> KernelSet:
    from kernels.logit_mask import cpu as logit_mask_cpu
    from kernels.sampling import cpu as sampling_cpu

    sampling = sampling_cpu.build(compiler)
    return replace(
        kernels,
        allow_bits=logit_mask_cpu.build(compiler),
        keep_top_k=sampling.keep_top_k,
        keep_top_p=sampling.keep_top_p,
        choose=sampling.choose,
    )


def _with_compiled_layers(
    kernels: KernelSet, compiler: Compiler, int8_activations: bool, memory: WeightMemory | None
) -> KernelSet:
    from kernels.causal_conv import cpu as causal_conv_cpu
    from kernels.embedding import cpu as embedding_cpu
    from kernels.experts import cpu as experts_cpu
    from kernels.gated_activation import cpu as gated_activation_cpu
    from kernels.gated_delta_rule import cpu as gated_delta_rule_cpu
    from kernels.latent_attention import cpu as latent_attention_cpu
    from kernels.linear import cpu as linear_cpu
    from kernels.paged_attention import cpu as paged_attention_cpu
    from kernels.qkv_rotary import cpu as qkv_rotary_cpu
    from kernels.quantized_linear import cpu as quantized_linear_cpu
    from kernels.quantized_linear import int8
    from kernels.rms_norm import cpu as rms_norm_cpu
    from kernels.selective_scan import cpu as selective_scan_cpu
    from kernels.soft_cap import cpu as soft_cap_cpu
    from kernels.sparse_indexer import cpu as sparse_indexer_cpu
    from kernels.square_sums import cpu as square_sums_cpu
    from kernels.unary import cpu as unary_cpu

    linear = linear_cpu.build(compiler, memory)
    quantized_linear = quantized_linear_cpu.build(compiler, memory)
    # AMX multiplies bfloat16 faster than anything else integers
    takes_int8 = int8_activations and compiler.instructions.name != "amx"
    int8_linear = int8.build(compiler, memory) if takes_int8 else None
    quantized_linear = int8_linear or quantized_linear

    def any_linear(weight: Tensor | GroupQuantized, *more: Any) -> HasProduct:
        kernel = quantized_linear if isinstance(weight, GroupQuantized) else linear
        assert kernel is not None
        return kernel(weight, *more)

    experts = experts_cpu.build(compiler, any_linear)
    return replace(
        kernels,
        name=f"compiled for {compiler.instructions.name}{', int8 activations' if int8_linear else ''}",
        deterministic=True,
        linear=linear,
        quantized_linear=quantized_linear,
        embedding=embedding_cpu.build(compiler),
        add_rms_norm=rms_norm_cpu.build(compiler),
        square_sums=square_sums_cpu.build(compiler),
        qkv_rotary=qkv_rotary_cpu.build(compiler),
        paged_attention=paged_attention_cpu.build(compiler),
        latent_attention=latent_attention_cpu.build(compiler),
        choose_tokens=sparse_indexer_cpu.build(compiler),
        head_linear=partial(HeadLinear, linear=linear),
        causal_conv=causal_conv_cpu.build(compiler),
        gated_delta_rule=gated_delta_rule_cpu.build(compiler),
        selective_scan=selective_scan_cpu.build(compiler),
        unary=unary_cpu.build(compiler),
        gated_activation=gated_activation_cpu.build(compiler),
        experts=experts.experts,
        route=experts.route,
        route_by_scores=experts.route_by_scores,
        experts_keep_ints=quantized_linear is not None,
        soft_cap=soft_cap_cpu.build(compiler),
        recorder=_recorder(compiler),
    )


def _recorder(compiler: Compiler) -> CallRecorder | None:
    compiler.recorder.use(compiler.load(Path(__file__).parent / "native" / "replay.c").replay)
    return compiler.recorder if compiler.recorder.is_supported else None
