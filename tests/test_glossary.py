"""The field's terms: each stands in the first docstring line of the module that does it, so that grep finds it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WHERE = {
    "paged attention": "kernels/paged_attention/reference.py",
    "continuous batching": "engine/scheduling/scheduler.py",
    "chunked prefill": "engine/scheduling/scheduler.py",
    "preemption": "engine/scheduling/scheduler.py",
    "prefix caching": "engine/scheduling/block_allocator.py",
    "prefix cache": "engine/cache/prefix_cache.py",
    "block hashes": "engine/cache/prefix_cache.py",
    "eviction": "engine/cache/block_pool.py",
    "LRU": "engine/cache/block_pool.py",
    "reference counts": "engine/cache/block_pool.py",
    "KV cache": "engine/cache/kv_cache.py",
    "KV offload": "engine/cache/kv_offload.py",
    "host tier": "engine/cache/host_tier.py",
    "set-associative": "engine/cache/host_tier.py",
    "KV connector": "engine/cache/kv_connector.py",
    "KV index": "cluster/replica_state.py",
    "request migration": "cluster/in_flight.py",
    "speculative decoding": "engine/scheduling/ngram_proposer.py",
    "draft tokens": "engine/scheduling/ngram_proposer.py",
    "n-gram proposer": "engine/scheduling/ngram_proposer.py",
    "async scheduling": "engine/execution/executor.py",
    "execute_model": "engine/execution/executor.py",
    "CUDA graph": "engine/execution/cuda_graphs.py",
    "cascade attention": "engine/model/cascade.py",
    "warm-up": "engine/execution/warm_up.py",
    "column-parallel": "engine/model/linears.py",
    "row-parallel": "engine/model/linears.py",
    "tensor parallelism": "engine/parallel/tensor_parallel.py",
    "rendezvous": "engine/parallel/worker_commands.py",
    "all-reduce": "kernels/shm_collectives/cpu.py",
    "mixture of experts": "engine/model/feed_forward.py",
    "RoPE": "engine/arch/rope.py",
    "group-quantized": "kernels/quantized_linear/reference.py",
    "dequantizes": "engine/checkpoint/dequantize.py",
    "packed weights": "engine/checkpoint/weight_cache.py",
    "safetensors": "engine/checkpoint/safetensors_weights.py",
    "GGUF": "engine/checkpoint/gguf_file.py",
    "structured output": "engine/structured_output/grammar.py",
    "grammar mask": "engine/structured_output/grammar.py",
    "reasoning budget": "engine/structured_output/reasoning_budget.py",
    "budget-constrained decoding": "engine/structured_output/output_budget.py",
    "beam search": "engine/scheduling/beam_search.py",
    "fair queueing": "engine/scheduling/fair_queueing.py",
    "admission control": "engine/scheduling/admission_control.py",
    "finish reason": "engine/scheduling/stop_checker.py",
    "time to first token": "engine/scheduling/first_token_times.py",
    "rendezvous hashing": "cluster/routing.py",
    "power of two choices": "cluster/routing.py",
    "session affinity": "cluster/router.py",
    "heartbeat": "cluster/link.py",
    "backpressure": "cluster/server.py",
    "drain": "cluster/server.py",
    "watchdog": "engine/runtime/watchdog.py",
    "autoscaling": "cluster/autoscaling.py",
    "placement group": "cluster/ranks.py",
}


def first_line(path: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert text, path
    return text.splitlines()[0]


@pytest.mark.parametrize("term", WHERE)
def test_a_term_stands_in_the_first_line_of_the_module_that_does_it(term: str) -> None:
    assert term.lower() in first_line(WHERE[term]).lower()


def test_every_module_says_what_it_is() -> None:
    for package in ("cluster", "configs", "engine", "kernels", "serve_app"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.read_text():  # the folder of an operation needs no page of its own
                assert first_line(str(path.relative_to(ROOT)))
