"""Builds the Ray Serve application of a config: an ingress deployment, and a replica deployment per model."""

import secrets
from typing import Any

import ray
from ray import serve
from ray.experimental import internal_kv

from cluster.control_plane import deployment_name
from cluster.ingress import BuildAsgi, Ingress
from cluster.ranks import RunWorker
from cluster.replica import LoadEngine, Replica
from configs.schema import Config, ModelConfig

__all__ = ["application"]

SECRET_KEY = b"manta/wire/secret"


def application(
    config: Config, build_asgi: BuildAsgi, load_engine: LoadEngine, run_worker: RunWorker
) -> serve.Application:
    """One `Ingress`, and one deployment of `Replica` for each model."""
    secret = config.wire.secret.encode() if config.wire.secret is not None else _cluster_secret()
    replicas = {model.name: _replica(model, config, secret, load_engine, run_worker) for model in config.models}
    ingress = serve.deployment(
        name="Ingress",
        num_replicas=config.ingress.num_replicas,
        # the ingress refuses excess requests itself, with 429 and a reason; Serve must not queue them
        max_ongoing_requests=4 * config.ingress.max_open_requests,
        ray_actor_options={"num_cpus": config.ingress.num_cpus},
        health_check_period_s=5.0,
        health_check_timeout_s=15.0,
        # a new ingress starts before an old one stops, and the old one stays until its streams have ended
        max_surge_percent=100,
        graceful_shutdown_timeout_s=config.ingress.drain_s,
    )(serve.ingress()(Ingress))
    if config.api.access_log:  # which takes the place of Serve's
        ingress = ingress.options(logging_config={"enable_access_log": False, "log_level": "WARNING"})
    bound: serve.Application = ingress.bind(config, secret, replicas, build_asgi)
    return bound


def _replica(model: ModelConfig, config: Config, secret: bytes, load_engine: LoadEngine, run_worker: RunWorker) -> Any:
    deployment = serve.deployment(
        name=deployment_name(model.name),
        **_scale(model),
        max_ongoing_requests=100,  # health checks and discovery, not users' requests
        **_place(model),
        health_check_period_s=5.0,
        health_check_timeout_s=20.0,
        graceful_shutdown_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.1,
        max_surge_percent=model.max_surge_percent,
        logging_config={"enable_access_log": False},  # ingresses poll addresses every second
    )(Replica)
    return deployment.bind(model, config.wire, secret, load_engine, run_worker)


def _place(model: ModelConfig) -> dict[str, Any]:
    """The resources of a replica; for several ranks a placement group, a bundle per rank, the replica in the first."""
    resources = model.resources
    options = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}
    if model.tensor_parallel_size == 1:
        return {"ray_actor_options": options}
    bundle = {"CPU": resources.num_cpus, "GPU": resources.num_gpus}
    bundle = {name: amount for name, amount in bundle.items() if amount}
    return {
        "ray_actor_options": options,
        "placement_group_bundles": [bundle] * model.tensor_parallel_size,
        "placement_group_strategy": model.placement_group_strategy,
    }


def _scale(model: ModelConfig) -> dict[str, Any]:
    """The number of replicas, or Serve's autoscaling with our policy."""
    scaling = model.autoscaling
    if scaling is None:
        return {"num_replicas": model.num_replicas}
    targets = {
        "target_ongoing_requests": scaling.target_ongoing_requests,
        "target_cache_use": scaling.target_cache_use,
        "target_first_token_s": scaling.target_first_token_s,
    }
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "initial_replicas": max(1, scaling.min_replicas),
            "max_replicas": scaling.max_replicas,
            "look_back_period_s": scaling.look_back_period_s,
            **_collected(scaling.look_back_period_s),
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
            "downscale_to_zero_delay_s": scaling.downscale_to_zero_delay_s,
            "policy": {"policy_function": "cluster.autoscaling:Policy", "policy_kwargs": targets},
        }
    }


def _collected(look_back_period_s: float) -> dict[str, float]:
    """The interval of autoscaling metrics, which Serve checks to be shorter than look_back_period_s.

    The real interval is RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S; this older setting only serves the check,
    and its default of 10 s would refuse a shorter look-back period.
    """
    return {"metrics_interval_s": look_back_period_s / 2} if look_back_period_s <= 10 else {}


def _cluster_secret() -> bytes:
    """The secret of this Ray cluster's applications: the same at each deployment, so that Serve keeps the replicas."""
    if not ray.is_initialized():
        return secrets.token_bytes(32)
    internal_kv._internal_kv_put(SECRET_KEY, secrets.token_bytes(32), overwrite=False)
    stored: bytes = internal_kv._internal_kv_get(SECRET_KEY)
    return stored
