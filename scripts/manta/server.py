"""Runs Ray and Serve on this machine until Ctrl-C: starts them, deploys a document, reports progress, stops them."""

import contextlib
import importlib
import io
import ipaddress
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from configs.keys import keys_to_start_with
from configs.load import ConfigError, load_args
from scripts.manta.gpus import check_gpus
from scripts.manta.ray_environment import Front, machine_variables, values_of

__all__ = ["Settings", "check_keys", "download_models", "serve_until_stopped"]

LOOPBACK = "127.0.0.1"
APPLICATION = "serve_app.main:build"


class Settings(msgspec.Struct, frozen=True):
    document: Mapping[str, Any]  # for `serve deploy`
    origin: str  # of the document, for messages
    host: str
    port: int
    dashboard_port: int
    front: Front  # the load balancer


def serve_until_stopped(settings: Settings) -> None:
    """Returns after Ctrl-C or SIGTERM; an error ends the program."""
    folder = Path(tempfile.mkdtemp(prefix="manta-", dir="/tmp"))
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        # Ray reads its environment when it is imported, which has not happened yet
        os.environ.update(values_of(machine_variables(settings.front, folder)))
        _check(settings.document, settings.origin)
        check_keys(settings.document, settings.host)
        _check_port(settings.host, settings.port, "http_options.port in the config, or --port")
        _check_port(LOOPBACK, settings.dashboard_port, "--dashboard-port")
        _serve(settings, folder, stopping)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_keys(document: Mapping[str, Any], host: str) -> None:
    """Ends the program if keys are required and missing; warns of a public address without keys."""
    try:
        keys = [keys_to_start_with(load_args(one.get("args", {})).api) for one in document["applications"]]
    except ConfigError as error:
        raise SystemExit(f"[config] {error}") from None
    if not all(keys) and not _is_loopback(host):
        _say("keys", f"WARNING: this listens on {host} without API keys, so whoever reaches it may use it.")
        _say("keys", "Set MANTA_API_KEYS=NAME=KEY,... or api.api_keys_file, and api.require_api_keys.")


def _check(document: Mapping[str, Any], origin: str) -> None:
    """Ends the program unless Serve's schema and ours accept the document."""
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(document)
        for application in document["applications"]:
            load_args(application.get("args", {}))
    except (ConfigError, ValueError) as error:
        raise SystemExit(f"[config] {origin}: {error}") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _check_port(host: str, port: int, setting: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SystemExit(f"[port] cannot listen on {host}:{port}: {error.strerror}. Change {setting}.") from None


def _serve(settings: Settings, folder: Path, stopping: threading.Event) -> None:
    began_s = time.monotonic()
    with _ray(settings, folder) as serve:
        import ray

        seen = ray.cluster_resources()  # type: ignore[no-untyped-call]
        check_gpus(settings.document, seen.get("GPU", 0.0))
        failure = _deploy(settings.document, serve, stopping)
        if failure is not None:
            raise SystemExit(f"[failed] {failure}")
        if not stopping.is_set():
            model = load_args(settings.document["applications"][0]["args"]).models[0].name
            greeting = _greeting(settings.host, settings.port, model)
            _say("ready", f"after {time.monotonic() - began_s:.1f} s\n\n{greeting}")
            stopping.wait()
        _say("stop", "ending Serve and Ray")


@contextlib.contextmanager
def _ray(settings: Settings, folder: Path) -> Iterator[Any]:
    """`ray.serve`, started on loopback; at the end of the context everything is stopped."""
    began_s = time.monotonic()
    _say("ray", "starting on loopback")
    import ray
    from ray import serve

    ray.init(
        address="local",
        _node_ip_address=LOOPBACK,
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=True,
        dashboard_host=LOOPBACK,
        dashboard_port=settings.dashboard_port,
        _temp_dir=str(folder / "ray"),  # Ray makes it world-writable; `folder` is private
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=200_000_000,
    )
    dashboard = f"http://{LOOPBACK}:{settings.dashboard_port}"
    _say("ray", f"up after {time.monotonic() - began_s:.1f} s; dashboard at {dashboard}")
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.host, "port": settings.port},
            logging_config={"log_level": "WARNING"},
        )
        yield serve
    finally:
        from engine.cache.host_tier import remove_unused

        with contextlib.redirect_stdout(io.StringIO()):  # Ray prints the end of its actors there
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()
        remove_unused()  # host tiers of replicas that were killed


def download_models(application: Mapping[str, Any]) -> None:
    """Downloads what the replicas will load, resumably as `manta pull` does. Raises ModelError."""
    from engine.checkpoint.source import resolve
    from scripts.manta.resuming_hub import ResumingHub

    if application["import_path"] == APPLICATION:  # another one may read its models in its own way
        for model in load_args(application.get("args", {})).models:
            resolve(model.model, ResumingHub())


def _deploy(document: Mapping[str, Any], serve: Any, stopping: threading.Event) -> BaseException | None:
    """Deploys and prints progress. Returns early, without a failure, if `stopping` is set."""
    failures: list[BaseException] = []

    def deploy() -> None:
        try:
            for application in document["applications"]:
                download_models(application)
                module, _, name = application["import_path"].partition(":")
                build = getattr(importlib.import_module(module), name)
                path = application.get("route_prefix", "/")
                serve.run(build(application.get("args", {})), name=application["name"], route_prefix=path)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=deploy, daemon=True)
    thread.start()
    last_line = ""
    while thread.is_alive() and not stopping.is_set():
        thread.join(0.2)
        last_line = _print_progress(serve, last_line)
    return failures[0] if failures and not stopping.is_set() else None


def _print_progress(serve: Any, last_line: str) -> str:
    """Prints the deployments' states when they change. Returns the last printed ones."""
    parts = []
    for application in serve.status().applications.values():
        for name, deployment in application.deployments.items():
            states = {str(getattr(state, "value", state)): n for state, n in deployment.replica_states.items()}
            parts.append(f"{name}: " + ", ".join(f"{n} {state.lower()}" for state, n in states.items()))
            if deployment.status in ("UNHEALTHY", "DEPLOY_FAILED") and deployment.message:
                parts.append(deployment.message)
    line = "; ".join(parts)
    if line and line != last_line:
        _say("load", line)
    return line


def _greeting(host: str, port: int, model: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}]})
    url = f"http://{host}:{port}/v1"
    chat = "manta chat" if port == 8000 else f"manta chat --url {url}"
    return (
        f"  {url}\n\n"
        f"  curl {url}/chat/completions -H 'Content-Type: application/json' \\\n    -d '{body}'\n\n"
        f"  {chat}\n\n"
        "Ctrl-C ends it."
    )


def _say(part: str, text: str) -> None:
    print(f"[{part}] {text}", file=sys.stderr, flush=True)
