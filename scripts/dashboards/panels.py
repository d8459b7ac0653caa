"""The panels of the dashboards: PromQL over Ray's metrics and ours, under vLLM's names (cluster/metrics.py).

`$model` is the selected model, or several.
"""

import msgspec

__all__ = ["BOARDS", "Board", "Panel"]


class Panel(msgspec.Struct, frozen=True):
    title: str
    text: str  # the description
    unit: str  # one of Grafana's ids
    lines: dict[str, str]  # legend, with labels in braces -> PromQL


class Board(msgspec.Struct, frozen=True):
    uid: str
    title: str
    rows: dict[str, tuple[Panel, ...]]


MODEL = '{model_name=~"$model"}'


def _sum(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) ({metric}{where})"


def _rate(name: str, by: str) -> str:
    return _sum(f"rate(ray_vllm_{name}{MODEL}[$__rate_interval])", by)


def _quantiles(name: str) -> dict[str, str]:
    """A panel of a histogram of seconds."""
    rates = _rate(f"{name}_bucket", "le, model_name")
    return {f"p{q} {{{{model_name}}}}": f"histogram_quantile({q / 100}, {rates})" for q in (50, 90, 99)}


def _mean(name: str) -> str:
    return f"{_rate(name + '_sum', 'model_name')} / ({_rate(name + '_count', 'model_name')} > 0)"


def _share(part: str, whole: str) -> str:
    """A panel of a ratio between 0 and 1."""
    return f"{_rate(part, 'model_name')} / ({_rate(whole, 'model_name')} > 0)"


def _by_replica(gauge: str) -> dict[str, str]:
    return {"{{replica}} {{model_name}}": f"max by (replica, model_name) (ray_vllm_{gauge}{MODEL})"}


def _state(gauge: str) -> dict[str, str]:
    return {"{{replica}} {{model_name}}": f"max by (replica, model_name) (ray_manta_state_{gauge}{MODEL})"}


LOAD = (
    Panel(
        "Tokens per second",
        "What is generated, and what of prompts is accepted.",
        "short",
        {
            "generated {{model_name}}": _rate("generation_tokens_total", "model_name"),
            "prompts {{model_name}}": _rate("prompt_tokens_total", "model_name"),
        },
    ),
    Panel(
        "Answers per second",
        "By how they ended: stop, length, repetition, abort (the client left), grammar, error.",
        "ops",
        {"{{finished_reason}} {{model_name}}": _rate("request_success_total", "finished_reason, model_name")},
    ),
    Panel(
        "Running sequences",
        "They hold KV blocks and are computed in every step.",
        "short",
        _by_replica("num_requests_running"),
    ),
    Panel(
        "Waiting sequences",
        "They wait for blocks or for a place. What stays above 0 wants more replicas.",
        "short",
        _by_replica("num_requests_waiting"),
    ),
)
LATENCY = (
    Panel(
        "Time to first token",
        "From arrival at a replica; a moved answer counts again there.",
        "s",
        _quantiles("time_to_first_token_seconds"),
    ),
    Panel(
        "Time per token after the first",
        "Mean over each answer.",
        "s",
        _quantiles("request_time_per_output_token_seconds"),
    ),
    Panel("Time of whole answers", "From arrival to the last token.", "s", _quantiles("e2e_request_latency_seconds")),
    Panel(
        "Where the time goes",
        "Means: waiting for blocks, computing the prompt, generating.",
        "s",
        {
            f"{part} {{{{model_name}}}}": _mean(f"request_{part}_time_seconds")
            for part in ("queue", "prefill", "decode")
        },
    ),
)
CACHE = (
    Panel(
        "KV blocks in use",
        "Share that running sequences hold. At 1 the last to come lose theirs and start again.",
        "percentunit",
        _by_replica("kv_cache_usage_perc"),
    ),
    Panel(
        "Prompt tokens found in caches",
        "Share that was not computed; of it, what the node's memory had kept (engine.cache.kv_offloading_bytes).",
        "percentunit",
        {
            "all {{model_name}}": _share("prefix_cache_hits_total", "prefix_cache_queries_total"),
            "node's memory {{model_name}}": _share("external_prefix_cache_hits_total", "prefix_cache_queries_total"),
        },
    ),
    Panel(
        "Sequences that lost their blocks, so far",
        "To others before them; they compute everything again. Fewer sequences at a time, or more memory, helps.",
        "short",
        {"{{replica}} {{model_name}}": _sum("ray_vllm_num_preemptions_total", "replica, model_name", MODEL)},
    ),
    Panel(
        "Recurrent states in use",
        "Of models with recurrent layers: share of the slots that running sequences have. The others have snapshots.",
        "percentunit",
        _state("usage_perc"),
    ),
    Panel(
        "Snapshots of recurrent states",
        "A prefix is shared up to its last snapshot: see engine.cache.state_snapshot_interval.",
        "short",
        _state("snapshots"),
    ),
    Panel("Prompt tokens of a request", "", "short", {"mean {{model_name}}": _mean("request_prompt_tokens")}),
    Panel("Generated tokens of an answer", "", "short", {"mean {{model_name}}": _mean("request_generation_tokens")}),
)
MIGRATIONS = (
    Panel(
        "Streams moved to another replica, so far",
        "By reason: drained is planned, all others are losses. Their clients saw a pause, nothing else.",
        "short",
        {"{{reason}} {{model_name}}": _sum("ray_manta_request_migrations_total", "reason, model_name", MODEL)},
    ),
    Panel(
        "Streams moved to other kernels, so far",
        "No replica with the same kernels was up: their tokens may part at near ties.",
        "short",
        {"{{model_name}}": _sum("ray_manta_mixed_kernel_streams_total", "model_name", MODEL)},
    ),
)
RESUMED = Panel(
    "Streams that clients came back to, per second",
    "With Last-Event-ID or the same Idempotency-Key. kept: their ingress had the events; generated: it has changed, "
    "died or let them go, so that the answer was computed again.",
    "ops",
    {"{{source}}": _sum("rate(ray_manta_resumed_streams_total[$__rate_interval])", "source")},
)
REPLICAS = (
    Panel(
        "Replicas started, so far",
        "More than roll-outs and the autoscaler explain: something dies.",
        "short",
        {"{{deployment}}": _sum("ray_serve_deployment_replica_starts_total", "deployment")},
    ),
    Panel(
        "Time to get ready",
        "From the wish for a replica until it can serve, mean.",
        "ms",
        {
            "{{deployment}}": _sum("ray_serve_replica_startup_latency_ms_sum", "deployment")
            + " / "
            + _sum("ray_serve_replica_startup_latency_ms_count", "deployment")
        },
    ),
    Panel(
        "Engine steps per second",
        "A replica that runs sequences and finishes no step hangs.",
        "ops",
        {
            "{{replica}} {{model_name}}": _sum(
                f"rate(ray_manta_engine_steps_total{MODEL}[$__rate_interval])", "replica, model_name"
            )
        },
    ),
    Panel(
        "Alerts that fire",
        "Of configs/alerts/manta.rules.yaml, if this Prometheus has them.",
        "short",
        {"{{alertname}}": _sum('ALERTS{alertname=~"Manta.*", alertstate="firing"}', "alertname")},
    ),
)
AUTOSCALING = (
    Panel(
        "Healthy replicas",
        "Of engines and of ingresses, as Serve sees them, and how many it wants.",
        "short",
        {
            "{{deployment}}": _sum("ray_serve_deployment_replica_healthy", "deployment"),
            "{{deployment}} wanted": "max by (deployment) (ray_serve_autoscaling_target_replicas)",
        },
    ),
    Panel(
        "Load of a replica",
        "Mean of sequences that run and wait: what models[].autoscaling.target_ongoing_requests is compared with.",
        "short",
        {
            "{{model_name}}": "("
            + _sum("ray_vllm_num_requests_running", "model_name", MODEL)
            + " + "
            + _sum("ray_vllm_num_requests_waiting", "model_name", MODEL)
            + f") / count by (model_name) (ray_vllm_num_requests_running{MODEL})"
        },
    ),
)
ADMISSION = (
    Panel(
        "Refused HTTP requests",
        "Share of all: 429 are full queues and limits of keys, 503 that no replica could take one.",
        "percentunit",
        {
            "{{status_code}}": _sum(
                'rate(ray_serve_num_http_requests_total{status_code=~"429|503"}[$__rate_interval])', "status_code"
            )
            + " / on () group_left () sum(rate(ray_serve_num_http_requests_total[$__rate_interval]))"
        },
    ),
    Panel(
        "Refused for the limits of API keys",
        "Per second, by key and limit.",
        "reqps",
        {
            "{{key}} {{limit}}": _sum("rate(ray_manta_key_rejections_total[$__rate_interval])", "key, limit"),
        },
    ),
    Panel(
        "Tokens of API keys",
        "Per second, of prompts and answers; with api.usage_ledger.metrics.",
        "short",
        {
            "{{key}} prompt": _sum("rate(ray_manta_key_prompt_tokens_total[$__rate_interval])", "key"),
            "{{key}} answer": _sum("rate(ray_manta_key_completion_tokens_total[$__rate_interval])", "key"),
        },
    ),
)
HTTP = (
    Panel(
        "HTTP requests per second",
        "By path and status. 429 and 503: full queues, clients are told when to come back.",
        "reqps",
        {
            "{{status_code}} {{route}}": _sum(
                'rate(ray_serve_num_http_requests_total{route!="/-/healthz"}[$__rate_interval])', "status_code, route"
            )
        },
    ),
    Panel(
        "Open HTTP requests",
        "Streams count until their end.",
        "short",
        {"{{NodeAddress}}": _sum("ray_serve_num_ongoing_http_requests", "NodeAddress")},
    ),
)
NODES = (
    Panel("CPU", "", "percent", {"{{ip}}": "max by (ip) (ray_node_cpu_utilization)"}),
    Panel(
        "Memory in use",
        "Also what replicas keep for each other in /dev/shm.",
        "bytes",
        {"{{ip}}": "max by (ip) (ray_node_mem_used)"},
    ),
    Panel("GPU", "", "percent", {"{{ip}} {{GpuIndex}}": "max by (ip, GpuIndex) (ray_node_gpus_utilization)"}),
    Panel("GPU memory in use", "", "decmbytes", {"{{ip}} {{GpuIndex}}": "max by (ip, GpuIndex) (ray_node_gram_used)"}),
)

BOARDS = (
    Board("manta-models", "Manta: models", {"Load": LOAD, "Latency": LATENCY, "Cache": CACHE}),
    Board(
        "manta-cluster",
        "Manta: cluster",
        {
            "Replicas": REPLICAS,
            "Autoscaling": AUTOSCALING,
            "Migrations": (*MIGRATIONS, RESUMED),
            "Admission": ADMISSION,
            "HTTP": HTTP,
            "Nodes": NODES,
        },
    ),
)
