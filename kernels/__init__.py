"""Speaks tensors: pure functions, each operation a folder with its truth beside it. Imports nothing of ours.

`<op>/reference.py` is the specification: plain torch, fp32 inside, its docstring the contract. Beside it stand faster
ones with the same signature: `cpu.py` with `cpu.c`, compiled by `native/compiler.py` when it is first asked for.
`kernel_set.py` is the one place that chooses.

An implementation may lay out what is its own (packed weights, the inside of a KV block) as it likes. What it computes
for a row depends on that row alone: it is bitwise the same in any batch, any chunk and on any number of threads.
"""
