"""Speaks token ids: schedules, caches, runs the model, samples. No Ray, no text.

A request becomes sequences, one for each choice. A sequence has known tokens and computed tokens; every step computes
some of the difference, under a token budget. Prefill, chunked prefill, decode and resume are this one line.

    GenerateRequest -> Sequence -> SchedulerOutput -> ForwardBatch -> logits -> ModelOutput -> RequestOutput

`scheduler.py` decides who computes what next, `sequence_blocks.py` in which blocks, over `blocks.py` and
`prefix_cache.py`; none of them knows a tensor. `checkpoint/` reads what a model is, and its weights; `model/`,
`batch.py`, `kv_cache.py` and `sampler.py` compute. `engine.py` joins what decides and what computes, `async_engine.py`
gives it a thread, and `watchdog.py` says when that thread, or a rank that it waits for, gets on no more. `load.py`
makes it all of a config, and on a GPU `warm_up.py` has every kind of step computed once before anybody asks.
`offloading_connector.py` keeps blocks in an `host tier.py`, for other engines of the node.

What an answer's form allows next is `form/`'s to say.
"""
