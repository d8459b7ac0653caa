"""Linear layers in bfloat16 on CPU by oneDNN, with the weight reordered once.

The operators are private to torch, which is therefore pinned; a test compares them with the reference.
Supports bfloat16 weights only.
"""

import torch
from torch import Tensor

__all__ = ["Linear", "is_supported"]


def is_supported() -> bool:
    """True if this torch has the operators and this CPU runs bfloat16."""
    ops = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(ops, "_reorder_linear_weight")
        and hasattr(ops, "_linear_pointwise")
        and bool(ops._is_mkldnn_bf16_supported())
    )


class Linear:
    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, out_dtype: torch.dtype | None = None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), 16)
        self._bias_O = bias_O
        self._out_dtype = out_dtype or weight_OI.dtype

    def __call__(self, x_TI: Tensor) -> Tensor:
        out_TO: Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, self._packed, self._bias_O, "none", [], "")
        return out_TO.to(self._out_dtype)
