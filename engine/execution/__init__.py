"""Executes the scheduler's output: builds a model with its cache and sampler, runs it, captures CUDA graphs.

    SchedulerOutput -> ForwardBatch -> logits -> ModelOutput

`load.py` makes an executor of a config. `inline_executor.py` runs one rank, `tensor_parallel_executor.py` several.
`cuda_graphs.py` with `cuda_graph_cache.py` and `cuda_graph_inputs.py` replays decode steps, on a CPU too; `warm_up.py`
runs every kind of step before the first request on a GPU, `cascade_timing.py` measures when cascade attention pays,
`gc_heap.py` keeps the garbage collector from what a process has loaded.
"""
