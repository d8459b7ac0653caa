"""Composition root: the one module that sees all layers. `serve deploy` and `serve run` import `build` from here."""

import logging
from functools import partial
from typing import Any

import msgspec
from ray import serve

from cluster.client import ClusterClient
from cluster.control_plane import ControlPlane
from cluster.deploy import application
from cluster.fleet import Fleet
from cluster.metrics import UsageCounters, key_rejection_counter, resumed_streams_counter
from cluster.ranks import RankStarter
from cluster.state_shard import StateLimits
from configs.keys import without_keys
from configs.load import load_args
from configs.schema import Config, ModelConfig
from engine.engine import Engine
from engine.execution.executor import Executor
from engine.parallel.worker_commands import Rendezvous
from serve_app.logs.formats import LogOptions, configure_logs
from serve_app.tracing.otel import check_extra

__all__ = ["build", "load_engine"]

logger = logging.getLogger(__name__)

OPEN = (
    "There are no API keys: anybody who reaches this server's port may use it. "
    "Set MANTA_API_KEYS, api.api_keys_file or api.require_api_keys, or listen on 127.0.0.1 alone."
)


def build(args: dict[str, Any]) -> serve.Application:
    """The application that `args` (the config, see configs/schema.py) describes. Raises ConfigError."""
    config = load_args(args)
    config = msgspec.structs.replace(config, api=without_keys(config.api))
    if config.api.traces.exporter != "off":
        check_extra(config.api.traces)
    start_engine = partial(_start_engine, LogOptions(config.api.log_format, config.api.log_level))
    return application(config, _build_asgi, start_engine, _run_worker)


def _build_asgi(client: ClusterClient, config: Config, secret: bytes) -> Any:
    from engine.execution.gc_heap import freeze_gc_heap
    from serve_app.app import Hosting, build_app
    from serve_app.model.text_model import load_text_model
    from serve_app.state.store import StateStore, StoreLimits
    from serve_app.tenants.key_store import KeyStore
    from serve_app.workers.pool import WorkerPool

    configure_logs(LogOptions(config.api.log_format, config.api.log_level, config.api.access_log))
    models = {model.name: load_text_model(model) for model in config.models}
    keys = KeyStore(config, secret=secret, on_rejection=key_rejection_counter())
    if keys.is_open:
        logger.warning(OPEN)
    workers = WorkerPool()
    # replicas keep state, unless all of them may go
    rests = all(model.autoscaling is not None and model.autoscaling.min_replicas == 0 for model in config.models)
    replicated = config.api.state_redis_url is None and not rests

    def open_store(kind: str, limits: StoreLimits) -> StateStore:
        return client.store(kind, StateLimits(limits.max_bytes, limits.max_owner_bytes, limits.age_s))

    usage = UsageCounters() if config.api.usage_ledger.folder is not None or config.api.usage_ledger.metrics else None
    fleet = Fleet(client, config, ControlPlane().deployed).status
    hosting = Hosting(
        behind_serve=True,
        stores=open_store if replicated else None,
        fleet=fleet,
        usage=usage,
        on_resumed=resumed_streams_counter(),
    )
    app = build_app(client, config, models, workers, keys, hosting)
    workers.begin()
    freeze_gc_heap()
    return app


def _start_engine(logs: LogOptions, model: ModelConfig, cache_key: bytes, host: str, ranks: RankStarter) -> Engine:
    configure_logs(logs)
    return load_engine(model, cache_key, host, ranks)


def load_engine(model: ModelConfig, cache_key: bytes, host: str, ranks: RankStarter) -> Engine:
    """The engine of a replica of `model` on `host`; `ranks` starts its other workers where it has several."""
    from engine.execution.gc_heap import freeze_gc_heap
    from engine.execution.load import load_executor
    from engine.execution.tensor_parallel_executor import WorkerPlacement, start_driver
    from engine.structured_output.grammar import Vocabulary
    from serve_app.model.text_model import load_text_model

    text = load_text_model(model)
    special_ids = tuple(sorted(text.vocabulary.special_ids))

    def encode(data: bytes) -> list[int]:
        return list(text.encode_inner(data.decode("utf-8", "replace")))

    vocabulary = Vocabulary(text.vocabulary.all_bytes, special_ids, text.eos_ids)
    executor: Executor
    if model.tensor_parallel_size == 1:
        executor = load_executor(model, vocabulary, encode, cache_key=cache_key)
    else:
        placement = WorkerPlacement(host, ranks.is_on_one_node, ranks.start)
        executor = start_driver(model, placement, vocabulary, encode, cache_key)
    engine = Engine(executor, model.name, model.engine, cache_key)
    freeze_gc_heap()
    return engine


def _run_worker(model: ModelConfig, rank: int, rendezvous: Rendezvous) -> None:
    from engine.execution.tensor_parallel_executor import run_worker

    run_worker(model, rank, rendezvous)
