"""Gathers the facts of this machine. Nothing else of the doctor looks at it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.load import ConfigError, load_args
from configs.schema import Config as ServedConfig
from configs.schema import ModelConfig
from scripts.manta.deployment import DeploymentError, deployment_of
from scripts.manta.doctor.facts import Config, Facts, Gpus, Haproxy, ModelFiles, Network, Ray, Token
from scripts.manta.doctor.gather_host import host_facts
from scripts.manta.doctor.hub_cache import HubCache
from scripts.manta.doctor.listeners import listeners
from scripts.manta.doctor.model_files import model_files
from scripts.manta.doctor.nodes import ask_nodes, cluster_address
from scripts.manta.gpus import initial_replicas, missing_gpus, needed_gpus
from scripts.manta.ray_environment import Front, cluster_variables, haproxy_program

__all__ = ["gather"]

DASHBOARD_PORT, RAY_PORT, FALLBACK_PORT = 8265, 6379, 8500
DEFAULT_KV_CACHE_BYTES = 1 << 30  # on a CPU


def gather(source: str | None, *, front: Front | None, port: int | None, verify: bool) -> Facts:
    """The facts of this machine, and of a model or config if one is named."""
    from huggingface_hub.constants import HF_HUB_CACHE

    hub = Path(HF_HUB_CACHE)
    temp_folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"  # as Ray has it
    host = host_facts(hub, temp_folder)
    document, config, served = _config(source, host.gpus) if source else ({}, None, [])
    http = document.get("http_options") or {}
    models = [model.model for one in served for model in one.models]
    return Facts(
        host=host,
        network=_network(http, port),
        ray=_ray(front or ("haproxy" if haproxy_program() else "proxy"), temp_folder),
        config=config,
        models=tuple(_model(name, hub, verify) for name in dict.fromkeys(models)),
    )


def _model(source: str, hub: Path, verify: bool) -> ModelFiles:
    return model_files(source, HubCache(hub), verify=verify)


def _config(source: str, gpus: Gpus) -> tuple[Mapping[str, Any], Config, list[ServedConfig]]:
    """The document, what is known of it, and the configs of its applications."""
    document: Mapping[str, Any] = {}
    try:
        document = deployment_of(source, [])
        served = [load_args(one.get("args") or {}) for one in document["applications"]]
    except (DeploymentError, ConfigError) as error:
        return document, Config(source=source, error=str(error)), []
    except (TypeError, AttributeError, KeyError):
        return {}, Config(source=source, error="applications: must be a list of Serve applications"), []
    models = [model for one in served for model in one.models]
    found = Config(
        source=source,
        num_gpus=sum(needed_gpus(model) for model in models),
        missing_gpus=missing_gpus(models, len(gpus.listed)),
        kv_cache_bytes=sum(_kv_cache_bytes(model) for model in models),
        kv_offloading_bytes=sum(model.engine.cache.kv_offloading_bytes for model in models),
        max_open_requests=max((one.ingress.max_open_requests for one in served), default=1024),
    )
    return document, found, served


def _kv_cache_bytes(model: ModelConfig) -> int:
    if model.resources.num_gpus:
        return 0
    return initial_replicas(model) * (model.engine.cache.kv_cache_memory_bytes or DEFAULT_KV_CACHE_BYTES)


def _network(http: Mapping[str, Any], port: int | None) -> Network:
    ports = {
        port or int(http.get("port", 8000)): "the API",
        DASHBOARD_PORT: "Ray's dashboard",
        RAY_PORT: "Ray, with `ray start`",
        FALLBACK_PORT: "Serve's fallback proxy",
    }
    host = str(http.get("host", "127.0.0.1"))
    return Network(host=host, ports=ports, cluster_ports=frozenset({RAY_PORT}), listeners=listeners())


def _ray(front: Front, temp_folder: Path) -> Ray:
    expected = {one.name: one.value for one in cluster_variables(front)}
    cluster = cluster_address(os.environ, temp_folder)
    nodes, error = ask_nodes(cluster, list(expected)) if cluster else ((), "")
    return Ray(
        expected=expected,
        found={name: os.environ[name] for name in expected if name in os.environ},
        auth_mode=os.environ.get("RAY_AUTH_MODE", "").lower(),
        token=_token(),
        haproxy=_haproxy(),
        temp_folder=str(temp_folder),
        cluster=cluster,
        nodes=nodes,
        error=error,
    )


def _token() -> Token:
    """The token's file and permissions; what is in it is not read."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    is_in_environment = bool(os.environ.get("RAY_AUTH_TOKEN"))
    try:
        found = path.stat()
    except OSError:
        return Token(path=str(path), mode=None, is_in_environment=is_in_environment)
    is_mine = found.st_uid == os.geteuid()
    return Token(path=str(path), mode=found.st_mode & 0o7777, is_mine=is_mine, is_in_environment=is_in_environment)


def _haproxy() -> Haproxy:
    wrapper = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH") or None
    program = os.environ.get("MANTA_HAPROXY") or haproxy_program()
    paths = [path for path in (wrapper, program) if path]
    is_on = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY", "0").lower() in ("1", "true")
    is_executable = all(os.access(path, os.X_OK) for path in paths)
    return Haproxy(is_on=is_on, program=program, wrapper=wrapper, is_executable=is_executable)
