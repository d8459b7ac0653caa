"""Mixture of experts and its routers in C: one call for all experts of a layer, so that it can be recorded.

Supports bfloat16. Experts are packed linear layers of any kind that this CPU has, dense or group-quantized.
"""

import ctypes
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.experts.reference import Expert, ExpertActivation
from kernels.experts.routing import RouterSpec
from kernels.experts.routing import route_by_scores as reference_route_by_scores
from kernels.gated_activation.cpu import KINDS, load_gate
from kernels.native.compiler import Compiler
from kernels.native.recorder import NativeLibrary
from kernels.native.row_product import HasProduct, RowProduct
from kernels.operations import ExpertsPacker, Route, RouteByScores
from kernels.unary import cpu as unary_cpu

__all__ = ["ExpertKernels", "build"]


class ExpertKernels(NamedTuple):
    experts: ExpertsPacker
    route: Route
    route_by_scores: RouteByScores


def build(compiler: Compiler, linear: Callable[..., HasProduct]) -> ExpertKernels:
    """`linear` packs a matrix: (weight, bias | None, out_dtype | None)."""
    library = compiler.load(Path(__file__).with_name("cpu.c"))
    library.experts.argtypes = [ctypes.c_void_p] * 13 + [ctypes.c_int64] * 3
    library.route.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 8 + [ctypes.c_float]
    library.experts.restype = library.route.restype = None
    gate, unary = load_gate(compiler).address, unary_cpu.build(compiler)

    def pack(experts: Iterable[Expert], activation: ExpertActivation = "silu") -> Experts:
        layers = [
            (linear(one.gate_up, one.gate_up_bias), linear(one.down, one.down_bias, torch.float32)) for one in experts
        ]
        return Experts(library, layers, (0, 0) if activation == "relu2" else (gate, KINDS[activation]))

    def route_by_scores(logits_TE: Tensor, spec: RouterSpec) -> tuple[Tensor, Tensor]:
        if spec.corrects_logits or spec.scoring == "sparse_mixer":  # not in C, and not recorded
            return reference_route_by_scores(logits_TE, spec, unary)
        return _route(library, logits_TE, spec)

    def route(logits_TE: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
        return _route(library, logits_TE, RouterSpec(top_k, renormalizes=renormalize))

    return ExpertKernels(pack, route, route_by_scores)


def _route(library: NativeLibrary, logits_TE: Tensor, spec: RouterSpec) -> tuple[Tensor, Tensor]:
    assert logits_TE.dtype == torch.float32 and logits_TE.is_contiguous()
    assert spec.correction_E is None or spec.correction_E.dtype == torch.float32 and spec.correction_E.is_contiguous()
    num_rows, num_experts = logits_TE.shape
    ids_TK = torch.empty((num_rows, spec.top_k), dtype=torch.int64)
    weights_TK = torch.empty((num_rows, spec.top_k), dtype=torch.float32)
    library.route(
        logits_TE.data_ptr(),
        None if spec.correction_E is None else spec.correction_E.data_ptr(),
        ids_TK.data_ptr(),
        weights_TK.data_ptr(),
        num_rows,
        num_experts,
        spec.top_k,
        spec.scoring == "sigmoid",
        spec.renormalizes,
        spec.num_groups,
        spec.groups_per_token,
        spec.group_score == "top2",
        spec.scale,
    )
    return ids_TK, weights_TK


class Experts:
    def __init__(
        self, library: NativeLibrary, layers: list[tuple[HasProduct, HasProduct]], activation: tuple[int, int]
    ) -> None:
        """`activation`: address of the gate's kernel, and its number there."""
        self._library = library
        self._layers = layers  # whose weights the products are of
        products = [(up.product(), down.product()) for up, down in layers]
        self._products = torch.tensor([[up.fields, down.fields] for up, down in products], dtype=torch.int64)
        up, down = products[0]
        self._dim, gate = down.num_out, activation[0]
        ffn_dim = up.num_out // 2 if gate else up.num_out
        self._layer = torch.tensor(
            [*activation, len(layers), self._dim, ffn_dim, self._products.data_ptr()], dtype=torch.int64
        )
        self._widths = _Widths(products)

    def __call__(self, x_TM: Tensor, ids_TK: Tensor, weights_TK: Tensor, added_TM: Tensor | None = None) -> Tensor:
        x_TM, ids_TK, weights_TK = x_TM.contiguous(), ids_TK.contiguous(), weights_TK.contiguous()
        assert x_TM.dtype == torch.bfloat16 and ids_TK.dtype == torch.int64 and weights_TK.dtype == torch.float32
        assert added_TM is None or added_TM.dtype == x_TM.dtype and added_TM.is_contiguous()
        num_rows, top_k = ids_TK.shape
        out_TM, widths = torch.empty_like(x_TM), self._widths
        scratch = [
            torch.empty((num_rows, width), dtype=x_TM.dtype) for width in (widths.x, widths.inner, widths.active)
        ]
        scratch += [torch.empty((num_rows, self._dim), dtype=torch.float32)]
        scratch += [torch.empty((num_rows, widths.spare), dtype=torch.uint8)]
        scratch += [torch.empty((num_rows, self._dim), dtype=torch.float32)]
        scratch += [torch.empty(len(self._layers) + 1 + num_rows * top_k, dtype=torch.int64)]
        self._library.experts(
            self._layer.data_ptr(),
            x_TM.data_ptr(),
            ids_TK.data_ptr(),
            weights_TK.data_ptr(),
            None if added_TM is None else added_TM.data_ptr(),
            out_TM.data_ptr(),
            *(tensor.data_ptr() for tensor in scratch),
            num_rows,
            top_k,
            torch.get_num_threads(),
        )
        return out_TM


class _Widths:
    """Of a row's scratch memory, for any of the experts."""

    def __init__(self, products: list[tuple[RowProduct, RowProduct]]) -> None:
        self.x = max(up.num_in for up, _ in products)
        self.inner = max(up.num_out for up, _ in products)
        self.active = max(down.num_in for _, down in products)
        self.spare = max(one.scratch_bytes for pair in products for one in pair)
