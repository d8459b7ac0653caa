"""Weight formats of quantized hub checkpoints (GPTQ, AWQ, compressed-tensors, ...): one matrix in several tensors.

    GPTQ      qweight [I / 8, O], qzeros [G, O / 8], scales [G, O], g_idx [I]: packed along the inputs (AutoGPTQ)
    AWQ       qweight [I, O / 8], qzeros [G, O / 8], scales [G, O]: along the outputs, in an order of its own (AutoAWQ)
    packed    weight_packed [O, I / 8], weight_scale [O, G], weight_zero_point [O / 8, G]: compressed-tensors
    scaled    weight [O, I] in float8 or int8, and a scale for all, each row, or each block of it

32 / bits integers are packed into one int32, the first in its lowest bits.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.checkpoint.dequantize import dequantize_float8
from engine.checkpoint.matrix import Matrix
from engine.errors import ModelError
from kernels.quantized_linear.reference import GroupQuantized

__all__ = ["WeightFormat", "weight_format_of"]

Parts = Callable[[str], Tensor]  # by name, of one matrix
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # positions of eight neighboring outputs in an int32


class WeightFormat(Protocol):
    main: tuple[str, ...]  # a matrix that has one of these tensors is in this format
    parts: tuple[str, ...]  # all tensors that such a matrix may have

    def shape(self, main: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """[O, I] from the shape of the main tensor; None: that of `weight`."""
        ...

    def read(self, parts: Parts, has: Callable[[str], bool]) -> Matrix: ...


def weight_format_of(config: Mapping[str, Any], dtype: torch.dtype) -> WeightFormat:
    """Reads a config.json's quantization_config; `dtype` is the model's. Raises ModelError for unsupported formats."""
    try:
        return _weight_format(config, dtype)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"quantization_config is not complete: {type(error).__name__} {error}") from error


def _weight_format(config: Mapping[str, Any], dtype: torch.dtype) -> WeightFormat:
    method = config.get("quant_method")
    match method:
        case "gptq":
            return Gptq(_bits(config), adds_one=config.get("checkpoint_format", "gptq") != "gptq_v2")
        case "awq":
            kind = str(config.get("version") or config.get("format") or "gemm").lower()
            if kind != "gemm" or config.get("bits", 4) != 4:
                raise _unsupported(f"awq in the form {kind!r} with {config.get('bits', 4)} bits", "gemm with 4 bits")
            return Awq()
        case "compressed-tensors":
            return _compressed(config, dtype)
        case "fp8":
            return Scaled(dtype)
        case "modelopt" if str(config.get("quant_algo", "")).upper().startswith("FP8"):
            return Scaled(dtype)
    raise _unsupported(
        f"quantization_config.quant_method {method!r}", "gptq, awq, compressed-tensors, fp8 and modelopt's FP8"
    )


def _compressed(config: Mapping[str, Any], dtype: torch.dtype) -> WeightFormat:
    groups = list((config.get("config_groups") or {}).values())
    forms = {group.get("format") or config.get("format") for group in groups}
    if forms and forms <= {"float-quantized", "int-quantized", "naive-quantized"}:
        return Scaled(dtype)
    if forms != {"pack-quantized"}:
        raise _unsupported(
            f"compressed-tensors in the form {', '.join(sorted(map(str, forms))) or None}",
            "pack-quantized, float-quantized and int-quantized",
        )
    bits = {_bits({"bits": group["weights"]["num_bits"]}) for group in groups}
    if len(bits) > 1:
        raise _unsupported("a mixture of 4 and 8 bits", "one of them")
    return Packed(bits.pop())


def _bits(config: Mapping[str, Any]) -> int:
    bits = config.get("bits")
    if bits not in (4, 8):
        raise _unsupported(f"{bits} bits", "4 and 8")
    return int(bits)


def _unsupported(what: str, supported: str) -> ModelError:
    return ModelError(
        f"quantized weights: {what} is not supported; supported is {supported}. The original weights or a .gguf file "
        "of this model would do"
    )


class Gptq:
    main: tuple[str, ...] = ("qweight",)
    parts: tuple[str, ...] = ("qweight", "qzeros", "scales", "g_idx")

    def __init__(self, bits: int, adds_one: bool) -> None:
        """adds_one   stored zeros are less by one, as in AutoGPTQ's v1 format"""
        self._bits = bits
        self._adds_one = adds_one

    def shape(self, main: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return shape[1], shape[0] * 32 // self._bits

    def read(self, parts: Parts, has: Callable[[str], bool]) -> Matrix:
        codes_OI = _unpacked(parts("qweight").T, self._bits)
        factors_OG = parts("scales").float().T
        zeros_OG = _unpacked(parts("qzeros"), self._bits).T.int() + self._adds_one
        return _grouped(codes_OI, factors_OG, zeros_OG, self._bits, parts("g_idx") if has("g_idx") else None)


class Awq:
    main: tuple[str, ...] = ("qweight",)
    parts: tuple[str, ...] = ("qweight", "qzeros", "scales")

    def shape(self, main: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return shape[1] * 8, shape[0]

    def read(self, parts: Parts, has: Callable[[str], bool]) -> Matrix:
        def ordered(packed: Tensor) -> Tensor:
            unpacked = _unpacked(packed, 4)
            return unpacked.view(len(packed), -1, 8)[:, :, list(AWQ_ORDER)].flatten(1).T

        return _grouped(ordered(parts("qweight")), parts("scales").float().T, ordered(parts("qzeros")).int(), 4)


class Packed:
    main: tuple[str, ...] = ("weight_packed",)
    parts: tuple[str, ...] = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def shape(self, main: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return shape[0], shape[1] * 32 // self._bits

    def read(self, parts: Parts, has: Callable[[str], bool]) -> Matrix:
        codes_OI = _unpacked(parts("weight_packed"), self._bits)
        factors_OG = parts("weight_scale").float().view(len(codes_OI), -1)
        if has("weight_zero_point"):
            zeros_OG = _unpacked(parts("weight_zero_point").T, self._bits)[:, : len(codes_OI)].T.int()
        else:
            zeros_OG = torch.full_like(factors_OG, 1 << self._bits - 1, dtype=torch.int32)
        group_of_I = parts("weight_g_idx") if has("weight_g_idx") else None
        return _grouped(codes_OI, factors_OG, zeros_OG, self._bits, group_of_I)


class Scaled:
    """Activation scales are ignored: activations stay in `dtype`. Float8 is dequantized to `dtype`."""

    main: tuple[str, ...] = ("weight_scale", "weight_scale_inv")
    parts: tuple[str, ...] = (
        "weight",
        "weight_scale",
        "weight_scale_inv",
        "input_scale",
        "activation_scale",
        "weight_zero_point",
    )

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def shape(self, main: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return None

    def read(self, parts: Parts, has: Callable[[str], bool]) -> Matrix:
        found_OI = parts("weight")
        scale = parts("weight_scale" if has("weight_scale") else "weight_scale_inv").float()
        if has("weight_zero_point"):
            raise _unsupported("8-bit integers with zero points", "those without")
        num_out, num_in = found_OI.shape
        if found_OI.dtype == torch.int8 and scale.numel() == num_out and num_in % 32 == 0:
            return GroupQuantized(found_OI, scale.view(num_out, 1), None, least=-128, bits=8)
        return dequantize_float8(found_OI, scale, self._dtype)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """[N, K] int32 -> [N, K * 32 / bits] uint8."""
    data = packed.contiguous().view(torch.uint8)
    if bits == 8:
        return data
    return torch.stack((data & 15, data >> 4), dim=-1).flatten(1)


def _grouped(
    codes_OI: Tensor, factors_OG: Tensor, zeros_OG: Tensor, bits: int, group_of_I: Tensor | None = None
) -> Matrix:
    """factor * (code - zero), group-quantized where a kernel takes it, else dense.

    group_of_I   the group of each input (g_idx), where groups are not runs of neighbors
    """
    num_in, num_groups = codes_OI.shape[1], factors_OG.shape[1]
    group = -(-num_in // num_groups)
    in_order_I = torch.arange(num_in, device=codes_OI.device) // group
    index_I = in_order_I if group_of_I is None else group_of_I.long()
    takes = group * num_groups == num_in and group % 32 == 0 and torch.equal(index_I, in_order_I)
    if not takes:
        return factors_OG[:, index_I] * (codes_OI.int() - zeros_OG[:, index_I])
    factors_OG = factors_OG.contiguous()
    middle = 1 << bits - 1
    is_symmetric = bool((zeros_OG == middle).all())
    # 8-bit codes are shifted into a signed byte, and their zeros by as much
    shift = middle if is_symmetric or bits == 8 else 0
    offsets_OG = None if is_symmetric else factors_OG * (shift - zeros_OG)
    ints_OI = (codes_OI.contiguous() - shift).view(torch.int8)
    return GroupQuantized(ints_OI, factors_OG, offsets_OG, least=-shift, bits=bits)
