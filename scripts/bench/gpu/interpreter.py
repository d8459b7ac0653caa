"""Triton's interpreter where it computes other than a GPU: products and roundings of bfloat16 and float8.

For processes with TRITON_INTERPRET=1: the tests of kernels, and the GPU script at tiny sizes.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import functools
import inspect

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

__all__ = ["mend_interpreter"]

RAW = {tl.float8e4nv: torch.float8_e4m3fn, tl.bfloat16: torch.bfloat16}  # held as integers of the same size


def mend_interpreter() -> None:
    """For the whole process; a second call changes nothing."""
    builder = interpreter.InterpreterBuilder
    if builder.create_dot is _create_dot:
        return
    cast, convert = builder.cast_impl, builder.create_fp_to_fp

    def cast_impl(self, source, target):
        """The interpreter cuts bits off to make bfloat16; a GPU rounds to the nearest, of two the even one.

        The other way it takes apart and puts together what a shift gives.
        """
        kinds = source.dtype.scalar, target.scalar
        if kinds == (tl.bfloat16, tl.float32):
            return interpreter.TensorHandle(_as_f32(source), tl.float32)
        if kinds != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.uint16)
        return interpreter.TensorHandle(rounded.numpy(), tl.bfloat16)

    def create_fp_to_fp(self, source, target, rounding):
        """The interpreter's float8 of 1.99 is 1, as it loses what is carried; a GPU's and torch's is 2."""
        kinds = source.dtype.scalar, target.scalar
        if tl.float8e4nv not in kinds:
            return convert(self, source, target, rounding)
        wide = torch.from_numpy(np.ascontiguousarray(source.data))
        wide = (wide.view(RAW[kinds[0]]) if kinds[0] in RAW else wide).float()
        if kinds[1] in RAW:
            data = wide.to(RAW[kinds[1]]).view(torch.uint8 if kinds[1] == tl.float8e4nv else torch.uint16).numpy()
        else:
            data = wide.numpy().astype(np.float16 if kinds[1] == tl.float16 else np.float32)
        return interpreter.TensorHandle(data, kinds[1])

    builder.create_dot, builder.cast_impl, builder.create_fp_to_fp = _create_dot, cast_impl, create_fp_to_fp
    interpreter._patch_builtin = _patch_builtin


def _patch_builtin(package, builder, scope):
    """The interpreter asks all members of a package at every call of a function for those that it replaces."""
    for name in _builtins(package):
        if tl.core.is_builtin(member := getattr(package, name)):
            interpreter._patch_attr(package, name, member, builder, scope)


@functools.cache
def _builtins(package):
    """Names; a package's first call is outside of all others, so that none is replaced yet."""
    return tuple(name for name, member in inspect.getmembers(package) if tl.core.is_builtin(member))


def _create_dot(self, a, b, d, *rest):
    right = _as_f32(b)
    # a product of matrices rounds a row by its place in numpy's; a GPU does not
    product = np.stack([row @ right for row in _as_f32(a)])
    return interpreter.TensorHandle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)


def _as_f32(handle):
    """The interpreter holds bfloat16 as raw 16 bits, and would multiply those."""
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data.astype(np.float32)
