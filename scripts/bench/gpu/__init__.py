"""Everything that a card is needed for, in one call: python -m scripts.bench.gpu --out DIR [--only PART ...].

    ceilings  what the card does at best: copying, and a large bfloat16 product
    check     every kernel against float64 at real sizes; batch invariance; CUDA graphs with changed lengths
    kernels   times, GB/s or TFLOP/s, and the share of the ceiling; beside them peers, as far as they are installed
    engine    decoding in the shape of Llama-3.1-8B, with random weights, and transformers' decoding of the same

`--baseline MODULE` times what that module has under the names of kernels/kernel_set.py, as an older version of a
kernel or its reference, in turns with ours. `--tune [KERNEL ...]` first searches launch parameters for the device and
writes them to kernels/<op>/tables; the record has them too. `--only` with nothing after it runs none of the parts.

Each part writes DIR/<date>_<device>_<part>.json as soon as it is done. `--tiny` runs all of it on a CPU at sizes that
say nothing, with Triton's interpreter where TRITON_INTERPRET=1, else with the references: so that this never rots.
"""
