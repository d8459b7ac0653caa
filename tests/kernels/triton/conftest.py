"""Runs in a process of its own: interpreted and compiled kernels cannot share one.

TRITON_INTERPRET=1 pytest tests/kernels/triton
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    def as_f32(handle):  # the interpreter holds bfloat16 as raw 16 bits, and would multiply those
        if handle.dtype.scalar == tl.bfloat16:
            return (handle.data.astype(np.uint32) << 16).view(np.float32)
        return handle.data.astype(np.float32)

    def create_dot(self, a, b, d, *rest):
        right = as_f32(b)
        # a product of matrices rounds a row by its place in numpy's; a GPU does not
        product = np.stack([row @ right for row in as_f32(a)])
        return interpreter.TensorHandle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = create_dot

    cast = interpreter.InterpreterBuilder.cast_impl

    def cast_impl(self, source, target):
        """The interpreter cuts bits off to make bfloat16; a GPU rounds to the nearest, of two the even one."""
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.uint16)
        return interpreter.TensorHandle(rounded.numpy(), tl.bfloat16)

    interpreter.InterpreterBuilder.cast_impl = cast_impl

    RAW = {tl.float8e4nv: torch.float8_e4m3fn, tl.bfloat16: torch.bfloat16}  # held as integers of the same size
    convert = interpreter.InterpreterBuilder.create_fp_to_fp

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

    interpreter.InterpreterBuilder.create_fp_to_fp = create_fp_to_fp


@pytest.fixture
def filled_with_nan(monkeypatch):
    """What nobody writes is not a number."""

    def empty(*args, **options):
        return torch.full(*args, torch.nan, **options)

    monkeypatch.setattr("kernels.paged_attention.triton.torch.empty", empty)
    monkeypatch.setattr("kernels.paged_attention.triton.torch.empty_like", lambda x: torch.full_like(x, torch.nan))
