"""Runs in a process of its own: interpreted and compiled kernels cannot share one.

TRITON_INTERPRET=1 pytest tests/kernels/triton
"""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    plain_dot = interpreter.InterpreterBuilder.create_dot

    def as_f32(handle):  # the interpreter holds bfloat16 as raw 16 bits, and would multiply those
        if handle.dtype.scalar == tl.bfloat16:
            return (handle.data.astype(np.uint32) << 16).view(np.float32)
        return handle.data

    def create_dot(self, a, b, d, *rest):
        if tl.bfloat16 in (a.dtype.scalar, b.dtype.scalar):
            product = np.matmul(as_f32(a), as_f32(b)).astype(d.data.dtype)
            return interpreter.TensorHandle(product + d.data, d.dtype.scalar)
        return plain_dot(self, a, b, d, *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot
