"""The metric catalogue: name, kind, help and buckets of every metric, for /metrics and for Ray's metrics alike.

Ray exports each name of CATALOGUE as `ray_vllm_<name>`, the ingress's own /metrics as `vllm:<name>`, and each of
MANTA, which vLLM does not have, as `ray_manta_<name>` and `manta_<name>`; counters with `_total` behind it. Not every
metric is on both: only an ingress can measure the time between events, only an engine preemptions.
"""

from typing import Literal, NamedTuple

__all__ = ["CATALOGUE", "MANTA", "SECONDS", "TOKENS", "Metric"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
TOKENS = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000)


class Metric(NamedTuple):
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    buckets: tuple[float, ...] = ()  # upper bounds, of a histogram
    labels: tuple[str, ...] = ()  # besides model_name, in CATALOGUE


def _seconds(text: str) -> Metric:
    return Metric("histogram", text, SECONDS)


CATALOGUE: dict[str, Metric] = {
    "num_requests_running": Metric("gauge", "Sequences that hold blocks."),
    "num_requests_waiting": Metric("gauge", "Sequences that wait for blocks."),
    "kv_cache_usage_perc": Metric("gauge", "Share of KV blocks held by sequences; 1 is all."),
    "cache_config_info": Metric(
        "gauge", "Block size and number of KV blocks.", labels=("block_size", "num_gpu_blocks")
    ),
    "prefix_cache_queries": Metric("counter", "Prompt tokens looked up in the prefix cache."),
    "prefix_cache_hits": Metric("counter", "Prompt tokens found in the prefix cache."),
    "external_prefix_cache_queries": Metric("counter", "Prompt tokens looked up in the node's memory (KV offload)."),
    "external_prefix_cache_hits": Metric("counter", "Prompt tokens found in the node's memory (KV offload)."),
    "prompt_tokens": Metric("counter", "Prompt tokens of accepted requests."),
    "generation_tokens": Metric("counter", "Tokens generated."),
    "num_preemptions": Metric("counter", "Sequences that lost their blocks to others."),
    "request_success": Metric("counter", "Answers that ended, by finish reason.", labels=("finished_reason",)),
    "time_to_first_token_seconds": _seconds("From arrival to the first token."),
    "inter_token_latency_seconds": _seconds("Between two pieces of an answer."),
    "request_time_per_output_token_seconds": _seconds("Mean time between tokens of an answer."),
    "request_queue_time_seconds": _seconds("From arrival to the first step."),
    "request_prefill_time_seconds": _seconds("From the first step to the first token."),
    "request_decode_time_seconds": _seconds("From the first token to the last one."),
    "request_inference_time_seconds": _seconds("From the first step to the last token."),
    "e2e_request_latency_seconds": _seconds("From arrival to the last token."),
    "request_prompt_tokens": Metric("histogram", "Prompt length.", TOKENS),
    "request_generation_tokens": Metric("histogram", "Answer length.", TOKENS),
}

MANTA: dict[str, Metric] = {
    "request_migrations": Metric(
        "counter", "Requests that went on on another replica.", labels=("model_name", "cause", "reason")
    ),
    "mixed_kernel_streams": Metric(
        "counter",
        "Streams that went on on other kernels or instruction sets: tokens may part at near ties.",
        labels=("model_name",),
    ),
    "resumed_streams": Metric(
        "counter",
        "Streams that a client has come back to: their events were kept here, or generated again.",
        labels=("source",),
    ),
    "state_usage_perc": Metric(
        "gauge", "Share of the slots for recurrent states held by sequences; 1 is all.", labels=("model_name",)
    ),
    "state_snapshots": Metric(
        "gauge", "Snapshots of recurrent states, from which prefixes are shared.", labels=("model_name",)
    ),
    "engine_steps": Metric("counter", "Steps that an engine has finished.", labels=("model_name",)),
    "key_requests": Metric("counter", "Requests of an API key that were answered.", labels=("key",)),
    "key_prompt_tokens": Metric("counter", "Prompt tokens of an API key.", labels=("key",)),
    "key_cached_tokens": Metric("counter", "Of these, tokens that were found in the prefix cache.", labels=("key",)),
    "key_completion_tokens": Metric("counter", "Tokens generated for an API key.", labels=("key",)),
    "usage_ledger_lost_lines": Metric("counter", "Lines that the usage ledger could not write."),
    "key_rejections": Metric(
        "counter", "Requests that were refused for the limits of their API key.", labels=("key", "limit")
    ),
}
