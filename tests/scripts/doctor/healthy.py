"""Facts of a machine on which all is well, for tests to break."""

from typing import Any

import msgspec

from scripts.manta.doctor.checks import findings_of
from scripts.manta.doctor.facts import (
    Clock,
    Compiler,
    Config,
    Facts,
    Folder,
    Gpus,
    Haproxy,
    Host,
    ModelFile,
    ModelFiles,
    Network,
    Node,
    Package,
    Ray,
    Token,
)
from scripts.manta.doctor.finding import Finding

__all__ = ["FACTS", "GIB", "RAY", "SWITCHES", "VERSIONS", "broken", "facts", "finding", "folder"]

GIB = 1 << 30
SWITCHES = {"RAY_AUTH_MODE": "token", "RAY_TMPDIR": "/home/a/.ray/tmp"}
VERSIONS = {"ray": "2.60.0", "torch": "2.13.0"}


def folder(purpose: str, **changed: Any) -> Folder:
    whole: dict[str, Any] = {"path": "/there", "is_writable": True, "free_bytes": 50 * GIB, "total_bytes": 90 * GIB}
    return Folder(purpose=purpose, **{**whole, **changed})


def node(address: str) -> Node:
    return Node(address=address, python="3.11.7", versions=VERSIONS, environment=SWITCHES, skew_s=0.002)


HOST = Host(
    python=(3, 11, 7),
    packages=(Package(name="ray", installed="2.60.0", wanted="==2.60.0"),),
    cpu="a CPU, 8 cores",
    kernels="avx2",
    why_not_better="avx512: the CPU lacks avx512f",
    compiler=Compiler(path="/usr/bin/gcc", error=""),
    gpus=Gpus(num_devices=1, listed=("A100",), memory_bytes=40 * GIB, seen_by_torch=1, torch_build="13"),
    shm=folder("shared memory", path="/dev/shm"),
    open_files=(65536, 65536),
    available_bytes=30 * GIB,
    total_bytes=32 * GIB,
    folders=(folder("temp files"), folder("downloaded models"), folder("packed weights")),
    clock=Clock(wall_s=1.8e9, newest_file_s=1.79e9, wall_step_s=0.02, monotonic_step_s=0.02),
)
RAY = Ray(
    expected=SWITCHES,
    found=SWITCHES,
    auth_mode="token",
    token=Token(path="/home/a/.ray/auth_token", mode=0o600),
    haproxy=Haproxy(is_on=True, program="/usr/sbin/haproxy", wrapper="/opt/manta/haproxy"),
    temp_folder="/home/a/.ray/tmp",
    cluster="10.0.0.1:6379",
    nodes=(node("10.0.0.1"), node("10.0.0.2")),
)
FACTS = Facts(
    host=HOST,
    network=Network(
        host="127.0.0.1",
        ports={8000: "the API", 8265: "Ray's dashboard", 6379: "Ray"},
        cluster_ports=frozenset({6379}),
        listeners=(),
    ),
    ray=RAY,
    config=Config(source="my.yaml", kv_cache_bytes=GIB, kv_offloading_bytes=GIB),
    models=(ModelFiles(source="a/b", path="/models/b", files=(ModelFile(name="model.safetensors", num_bytes=GIB),)),),
)


def facts(part: str = "", **changed: Any) -> Facts:
    """Healthy facts, of which a part (host.gpus) has other fields."""
    return _replaced(FACTS, part.split(".") if part else [], changed)


def _replaced(value: Any, path: list[str], changed: dict[str, Any]) -> Any:
    if not path:
        return msgspec.structs.replace(value, **changed)
    return msgspec.structs.replace(value, **{path[0]: _replaced(getattr(value, path[0]), path[1:], changed)})


def broken(found: Facts) -> list[Finding]:
    """All findings that are not ok."""
    return [one for one in findings_of(found) if one.level != "ok"]


def finding(found: Facts) -> Finding:
    """The one that is not ok: nothing else may be said of what is broken in one way."""
    (one,) = broken(found)
    return one
