"""Everything that a card is needed for, in one call: python -m scripts.bench.gpu --out DIR [--minutes N] [--plan NAME].

The first plan, in 9 minutes or what `--minutes` says:

    sanity    what is on the machine; one kernel; what the card does at best: copying, a large bfloat16 product
    check     kernels in bfloat16 and float16 against float64 at real sizes; batch invariance; CUDA graphs with changed
              lengths. The first case that is wrong is run again alone under compute-sanitizer
    engine    decoding in the shape of Llama-3.1-8B, with random weights, at three batches, with a profile by kernel
    start     from random weights to the first answer, with an empty Triton cache and with a full one
    kernels   times, GB/s or TFLOP/s, and the share of the ceiling
    tune      launch parameters of decode and ragged attention, into DIR/tables.json, which scripts.bench.gpu.tables
              puts into the tree

The second has a real model's text against a CPU's (with --carried DIR), cascade attention, quantized weights alone
(also by themselves: --only check-quantized) and in the engine, experts, and Nsight Compute's counters of the slowest
kernel. `--plan peers` times transformers on the engine's loads, for minutes.

A part is a process of its own and has DIR/<part>.json, written anew with every row; DIR/plan.json says what became of
each. One that dies or hangs goes on behind the unit that it was in. `--only` takes parts of any plan, `--full` also
float32, registers, every case and the kernels' peers. `--baseline MODULE` times what that module has under the names of
kernels/kernel_set.py, as an older version of a kernel or its reference, in turns with ours. `--tune-ops` names folders
of kernels to search.

`--tiny` runs all of it on a CPU at sizes that say nothing, with Triton's interpreter where TRITON_INTERPRET=1, else
with the references: so that this never rots. `--fault PART:UNIT:KIND` makes a unit raise, hang, be killed, or leave an
error of the device behind that stays.
"""
