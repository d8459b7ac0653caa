"""The engine: token ids in, token ids out. Schedules, caches, runs the model, samples. No Ray, no text.

A request becomes sequences, one for each choice. A sequence has known tokens and computed tokens; every step computes
some of the difference, under a token budget. Prefill, chunked prefill, decode and resume are all this.

    GenerateRequest -> Sequence -> SchedulerOutput -> ForwardBatch -> logits -> ModelOutput -> RequestOutput

`engine.py` joins scheduler and executor; `types.py` and `errors.py` are the public interface. The packages, each over
those before it (tests/test_architecture.py checks the order):

    device               copies and CUDA graph capture
    checkpoint           from a name to an architecture and weights
    structured_output    grammar masks, reasoning budget, repetition
    cache                block pool, prefix cache, KV cache, KV offload
    scheduling           continuous batching, block allocator, speculative decoding, beam search, fair queueing
    parallel             tensor parallelism, rendezvous, worker commands
    sampling             from logits to tokens
    model                the decoder and its layers
    execution            executors, CUDA graphs, warm-up, loading
    runtime              the engine's thread, its asyncio client, its watchdog

Scheduling, and cache but for its tensors, need no torch: importing the engine does not load it.
"""
