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
