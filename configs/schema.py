"""The configuration schema: what can be set, its unit and its default."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "AccessConfig",
    "ApiConfig",
    "AutoscalingConfig",
    "CacheConfig",
    "Config",
    "EngineConfig",
    "IngressConfig",
    "KeyLimits",
    "ModelConfig",
    "ResourcesConfig",
    "RoutingConfig",
    "SchedulerConfig",
    "TracesConfig",
    "UsageLedgerConfig",
    "WireConfig",
]

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Names = Annotated[tuple[Name, ...], Meta(min_length=1)]


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_num_batched_tokens: Positive = 512  # tokens computed in one step, all sequences together
    max_num_seqs: Positive = 64  # sequences that hold blocks at the same time
    max_queued_requests: Positive = 256  # requests that wait for their first step; one more is refused
    max_queued_tokens: Positive = 262_144  # prompt tokens of all waiting requests together; more is refused
    num_speculative_tokens: Count = 0  # draft tokens of one sequence in a step, at most (n-gram proposer); 0 is off
    prompt_lookup_min: Positive = 3  # tokens of the n-gram by which drafts are looked up


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    block_size: Positive = 16  # tokens in a KV block
    num_blocks: Positive | None = None  # KV blocks of all cache groups; unset: as many as the next two give
    kv_cache_memory_bytes: Positive | None = None  # size of the KV cache; unset: 1 GiB on CPU, on a GPU by the next
    gpu_memory_utilization: Annotated[float, Meta(gt=0, lt=1)] = 0.9  # share of a GPU's memory for weights and KV cache
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"  # auto: the model's; fp8: twice the blocks in the same bytes
    enable_prefix_caching: bool = True  # reuse the blocks of equal prefixes
    state_snapshot_interval: Positive = 512  # tokens from one snapshot of a recurrent state to the next
    num_state_snapshots: Count | None = None  # snapshots that are kept; unset: scheduler.max_num_seqs
    kv_offloading_bytes: Count = 0  # host memory for KV offload, shared by the replicas of a node; 0: off


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where torch sees a GPU, else cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16
    keep_quantized: bool = True  # 4- and 8-bit weights stay so where a kernel takes them; false: dequantized at load
    activation_quantization: Literal["none", "int8"] = "none"  # int8: a CPU rounds inputs of kept 4- and 8-bit weights
    weight_cache_bytes: Count = 34_359_738_368  # packed weights in ~/.cache/manta/weights, shared by replicas; 0: off
    max_model_len: Positive | None = None  # tokens, prompt and answer together; unset: what the model was made for
    num_threads: Positive | None = None  # CPU threads of a replica; unset: num_cpus, for prompts idle replicas' too
    deterministic: bool | None = None  # logits bitwise equal in any batch and chunk; unset: on for CPU, off on a GPU
    cascade_attention: Literal["auto", "off"] = "auto"  # auto: a GPU reads a shared prefix once, where faster
    async_scheduling: bool | None = None  # schedule a step while the one before runs; unset: on a GPU
    enforce_eager: bool = False  # true: no CUDA graphs; else decode steps are captured once and replayed, on CPUs too
    scheduler: SchedulerConfig = SchedulerConfig()
    cache: CacheConfig = CacheConfig()


class ResourcesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    num_cpus: Annotated[float, Meta(ge=0)] = 1.0  # CPUs that Ray reserves for one rank of a replica
    num_gpus: Annotated[float, Meta(ge=0)] = 0.0  # GPUs that Ray reserves for one rank of a replica


class AutoscalingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    min_replicas: Count = 1  # 0: scales to zero when idle, and up again with the next request
    max_replicas: Positive = 4  # replicas at most
    target_ongoing_requests: Annotated[float, Meta(gt=0)] = 16.0  # sequences per engine, running and waiting
    target_cache_use: Annotated[float, Meta(gt=0, le=1)] = 0.8  # share of the KV blocks that sequences hold
    target_first_token_s: Seconds = 2.0  # time to the first token, mean of the last half minute
    look_back_period_s: Seconds = 10.0  # window over which loads are averaged
    upscale_delay_s: Annotated[float, Meta(ge=0)] = 5.0  # time for which more replicas must be wanted
    downscale_delay_s: Annotated[float, Meta(ge=0)] = 120.0  # time for which fewer replicas must be wanted
    downscale_to_zero_delay_s: Annotated[float, Meta(ge=0)] = 600.0  # time for which none must be wanted


class RoutingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    policy: Literal["cost", "power_of_two", "round_robin"] = "cost"  # cost: where the least is left to compute
    session_affinity: bool = True  # requests with the same X-Session-Id header go to the same replica


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: Name  # hub id, local folder, .gguf file, or package:NAME/FILE
    served_model_name: Name | Names | None = None  # ids that clients send, the first in answers; unset: `model`
    tool_call_parser: Name | None = None  # format of tool calls (serve_app/tools/formats.py); unset: the template's
    reasoning_parser: Name | None = None  # format of reasoning (serve_app/text/reasoning_parser.py); "none": off
    num_replicas: Positive = 1  # replicas of this model, without autoscaling
    max_surge_percent: Annotated[int, Meta(ge=0, le=100)] = 0  # replicas that an upgrade may start before old ones go
    autoscaling: AutoscalingConfig | None = None  # unset: num_replicas, always
    tensor_parallel_size: Positive = 1  # ranks of one replica (GPUs, or processes on CPU)
    placement_group_strategy: Literal["STRICT_PACK", "PACK", "SPREAD"] = "STRICT_PACK"  # ranks on one node, few, many
    routing: RoutingConfig = RoutingConfig()  # which of its replicas gets a request
    resources: ResourcesConfig = ResourcesConfig()  # of each rank
    engine: EngineConfig = EngineConfig()

    @property
    def name(self) -> str:
        """The id that answers carry."""
        names = self.served_model_name or self.model
        return names if isinstance(names, str) else names[0]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Further ids that mean this model."""
        return () if isinstance(self.served_model_name, str | None) else self.served_model_name[1:]


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    requests_per_minute: Positive | None = None  # of one API key; unset: any number
    tokens_per_minute: Positive | None = None  # prompt and answer tokens of one API key; unset: any number
    max_concurrent_requests: Positive | None = None  # of one API key, streams too; unset: any number
    min_priority: int = 0  # lowest `priority` of a request; lower runs first: 0 forbids to overtake


Access = Literal["open", "key", "off"]


class AccessConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    metrics: Access = "open"  # /metrics; open: without a key, key: with an API key, off: no such route
    status: Access = "open"  # /status; its page asks for a key
    load: Access = "open"  # /load
    docs: Access = "open"  # /docs and /openapi.json
    chat_page: Access = "open"  # / and its files; the page asks for a key if /v1 needs one


class ResumeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Streams that can be resumed: events have ids, and the rest is sent again to any client that has lost its line."""

    streams: Literal["asked", "all", "off"] = "asked"  # that can be resumed; asked: with an Idempotency-Key header
    grace_s: Seconds = 30.0  # time that a resumable stream goes on without its client; then it is aborted
    age_s: Seconds = 3_600.0  # time from its beginning in which a stream can be resumed
    max_bytes: Count = 67_108_864  # requests in each replica's memory, ends of streams without a client in an ingress's
    max_bytes_per_key: Positive = 16_777_216  # of one API key, the least recently used are dropped


class TracesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenTelemetry traces of requests (serve_app/tracing)."""

    exporter: Literal["off", "otlp"] = "off"  # otlp: spans of requests go to a collector by OTLP/HTTP; needs extra otel
    endpoint: str | None = None  # http://HOST:4318/v1/traces; unset: OTEL_EXPORTER_OTLP_* of the ingress
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0  # share of traced requests, of those without a traceparent


class UsageLedgerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each request has used, as JSON lines (serve_app/logs)."""

    folder: str | None = None  # on every ingress's node: JSON lines, one file per process; unset: no ledger
    max_bytes: Positive = 67_108_864  # of a file; then it is rotated
    num_files: Positive = 16  # rotated files that a process keeps, and files of ended processes that a node keeps
    fsync: bool = False  # true: a batch of lines is on the disk before the next; false: the kernel writes within 30 s
    metrics: bool = False  # tokens of each API key, by its name, at /metrics and in Ray's metrics


class ApiConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    api_keys: tuple[str, ...] = ()  # bearer keys that may use /v1, or their "sha256:..."; Ray shows them to its users
    api_keys_file: str | None = None  # YAML file with named keys, on every ingress's node; reloaded when it changes
    api_keys_env: str = "MANTA_API_KEYS"  # environment variable with further keys: KEY,KEY or NAME=KEY,NAME=KEY
    require_api_keys: bool = False  # do not start without a key; false: without any, /v1 is open
    limits: KeyLimits = KeyLimits()  # of each key without limits of its own; of all together where there are no keys
    access: AccessConfig = AccessConfig()
    allowed_origins: tuple[str, ...] = ()  # browser origins that may call (CORS); "*" is any
    max_body_bytes: Positive = 8_388_608  # request body
    max_messages: Positive = 2_048  # messages in one request
    max_choices: Positive = 128  # n, answers to one request
    max_stop: Positive = 16  # stop strings in one request
    max_stop_chars: Positive = 1_024  # characters of one stop string
    max_logit_bias: Positive = 1_024  # entries of logit_bias
    max_logprobs: Count = 20  # top_logprobs
    max_tools: Positive = 256  # tools in one request
    trust_request_chat_template: bool = False  # clients may send a chat_template: a program that runs in the ingress
    max_grammar_bytes: Positive = 262_144  # a JSON schema or grammar, as compiled
    result_cache_bytes: Count = 0  # size of the result cache for repeated deterministic requests; 0: off
    result_cache_age_s: Seconds = 300.0  # age at which a cached result expires
    state_bytes: Count = 268_435_456  # responses and conversations that are kept in each replica's memory; 0: none
    state_bytes_per_key: Positive = 67_108_864  # of one API key, the least recently used are dropped
    state_age_s: Seconds = 2_592_000.0  # age at which a kept response or conversation expires
    state_redis_url: str | None = None  # redis://... keeps state in Redis; unset: two replicas keep each entry
    resume: ResumeConfig = ResumeConfig()
    log_format: Literal["text", "json"] = "text"  # of ingresses and replicas; json: one object per line
    log_level: Literal["debug", "info", "warning", "error"] = "warning"  # of ingresses and replicas
    access_log: bool = False  # a line per request at level info: tokens, times, ids; replaces Serve's
    traces: TracesConfig = TracesConfig()
    usage_ledger: UsageLedgerConfig = UsageLedgerConfig()
    keep_alive_s: Seconds = 15.0  # silence on a stream after which a comment line is sent


class IngressConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    num_replicas: Positive = 1  # HTTP processes
    num_cpus: Annotated[float, Meta(ge=0)] = 0.0  # CPUs that Ray reserves for one ingress
    max_open_requests: Positive = 1_024  # requests in flight of one ingress; one more gets 429
    drain_s: Seconds = 600.0  # time that a replaced or removed ingress waits for its open streams
    max_stream_bytes: Positive = 1_048_576  # unsent data of one slow reader; more ends its stream


class WireConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    secret: str | None = None  # shared by ingress and replicas; unset: one that the Ray cluster keeps
    bind: str | None = None  # address the replicas listen on; unset: the node's address in Ray
    max_frame_bytes: Positive = 16_777_216  # one frame on the wire
    heartbeat_s: Seconds = 0.25  # time between two heartbeats
    suspect_s: Seconds = 0.75  # time without a heartbeat after which a replica gets no new requests
    dead_s: Seconds = 1.5  # time without a heartbeat after which a replica's streams migrate
    ask_s: Seconds = 2.0  # time without a report on a request, after which its replica is asked; it migrates if unknown
    answer_s: Seconds = 30.0  # time for the engine's answer to that; then the request migrates
    connect_timeout_s: Seconds = 5.0  # time to connect and authenticate
    discover_s: Seconds = 1.0  # interval of replica discovery
    place_timeout_s: Seconds = 30.0  # time a stream waits for a replica that accepts it


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    models: Annotated[tuple[ModelConfig, ...], Meta(min_length=1)]
    api: ApiConfig = ApiConfig()
    ingress: IngressConfig = IngressConfig()
    wire: WireConfig = WireConfig()
