"""Continuous batching: which sequence computes which tokens in the next step, and in which blocks.

    GenerateRequest -> Sequence -> Scheduler.schedule() -> SchedulerOutput -> update_from_output(ModelOutput)

In reading order: `sequence.py` (known and computed tokens), `sequence_trace.py` (of a traced request),
`scheduler_output.py` (what a step computes), `scheduler.py` (token budget, chunked prefill, preemption),
`block_allocator.py` (KV blocks of a sequence), `waiting_queue.py`, `fair_queueing.py` (tenants),
`admission_control.py`, `ngram_proposer.py` (draft tokens for speculative decoding), `beam_search.py` and
`beam_group.py`. No torch. A scheduler can be driven without a model: see tests/engine/toy.py, whose token is a hash of
what it reads back through the block table.
"""
