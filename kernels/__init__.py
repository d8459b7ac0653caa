"""Kernels: pure functions over tensors, each operation a folder with its reference beside it. Imports nothing of ours.

`<op>/reference.py` is the specification: plain torch, fp32 inside, its docstring the contract. Beside it stand faster
ones with the same signature: `cpu.py` with `cpu.c`, compiled by `native/compiler.py` when it is first asked for, and
`triton.py` for GPUs, launched as `tables/<device>_triton-<version>.json` says, else as is written in its `launch`.
`kernel_set.py` is the one place that chooses.

An implementation may lay out what is its own (packed weights, the inside of a KV block) as it likes. What it computes
for a row depends on that row alone: it is bitwise the same in any batch, any chunk and on any number of threads. Not
so on a GPU unless deterministic kernels are asked for: there a row alone and in a chunk may differ by rounding, and
matrix products are the library's. Nor where no C compiler is, or in another dtype than bfloat16 on a CPU.

What `triton.py` launches for a batch of single tokens can be captured in a CUDA graph: grids follow from shapes,
lengths and tables stay tensors, nothing waits for the device. Rows of padding have slot -1 and belong to no sequence;
sequences of padding have no queries.
"""
