"""Checks of one machine: Python, packages, CPU, compiler, GPUs, memory, disk, limits, clock, folders."""

import time

from packaging.specifiers import SpecifierSet

from scripts.manta.doctor.facts import Facts, Folder, Package
from scripts.manta.doctor.finding import Finding, fault, ok, warning

__all__ = [
    "check_clock",
    "check_compiler",
    "check_cpu",
    "check_disk",
    "check_folders",
    "check_gpus",
    "check_memory",
    "check_open_files",
    "check_packages",
    "check_python",
    "check_shared_memory",
]

OLDEST_PYTHON = (3, 11)
OBJECT_STORE_BYTES = 200_000_000  # of `manta serve`
FILES_BESIDE_CONNECTIONS = 512  # libraries, logs, Ray's connections of one process
LEAST_DISK_BYTES = 1 << 30
RAY_STOPS_AT = 0.95  # Ray's local_fs_capacity_threshold
CLOCK_TOLERANCE_S = 0.05


def check_python(facts: Facts) -> Finding:
    found = ".".join(map(str, facts.host.python))
    if facts.host.python[:2] < OLDEST_PYTHON:
        return fault("python", found, "install Python 3.11 or newer, and Manta with its pip")
    return ok("python", found)


def check_packages(facts: Facts) -> Finding:
    wrong = [one for one in facts.host.packages if one.installed is None or not _fits(one)]
    if not wrong:
        return ok("packages", f"all {len(facts.host.packages)} are in the ranges of pyproject.toml")
    found = "; ".join(f"{one.name} {one.installed or 'missing'}, wanted {one.wanted or 'any'}" for one in wrong)
    return fault("packages", found, "pip install manta-serve again, or `pip install -e .` in a clone")


def check_cpu(facts: Facts) -> Finding:
    host = facts.host
    if not host.kernels:
        return fault("cpu", f"{host.cpu}: {host.why_not_better}", "unset MANTA_INSTRUCTION_SET, or choose one of these")
    return ok("cpu", f"{host.cpu}, kernels {host.kernels}" + f" ({host.why_not_better})" * bool(host.why_not_better))


def check_compiler(facts: Facts) -> Finding:
    compiler = facts.host.compiler
    if compiler is None:
        return warning(
            "compiler",
            "no gcc, cc or clang: CPU kernels are plain PyTorch, slower and not deterministic",
            "install a C compiler (Debian: apt-get install gcc libc6-dev)",
        )
    if compiler.error:
        return fault(
            "compiler",
            f"{compiler.path} does not compile with OpenMP: {compiler.error}",
            "install its headers and libgomp (Debian: apt-get install gcc libc6-dev)",
        )
    return ok("compiler", compiler.path)


def check_gpus(facts: Facts) -> Finding:
    gpus, config = facts.host.gpus, facts.config
    if gpus.num_devices > len(gpus.listed):
        found = f"{gpus.num_devices} NVIDIA GPUs on the bus, {len(gpus.listed)} listed by the driver"
        return fault("gpu", found, "install NVIDIA's driver with nvidia-smi; in a container pass the GPUs (--gpus all)")
    if gpus.seen_by_torch is not None and gpus.seen_by_torch < len(gpus.listed):
        found = f"{len(gpus.listed)} listed by the driver, {gpus.seen_by_torch} seen by torch"
        if not gpus.torch_build:
            return fault("gpu", f"{found}, which is built for CPUs", "install torch with CUDA (scripts/serve does)")
        advice = f"check CUDA_VISIBLE_DEVICES, and that the driver is new enough for CUDA {gpus.torch_build}"
        return (warning if gpus.seen_by_torch else fault)("gpu", found, advice)
    if config is not None and config.missing_gpus:
        return fault("gpu", config.missing_gpus, "lower num_replicas or tensor_parallel_size, or set num_gpus to 0")
    if not gpus.listed:
        return ok("gpu", "none; models run on the CPU")
    return ok("gpu", ", ".join(gpus.listed) + f"; torch for CUDA {gpus.torch_build}" * bool(gpus.torch_build))


def check_shared_memory(facts: Facts) -> Finding:
    shm, check = facts.host.shm, "shared memory"
    if shm is None:
        return ok(check, "this system has no /dev/shm; Ray takes its temp folder")
    tier = facts.config.kv_offloading_bytes if facts.config else 0
    found = f"{_size(shm.free_bytes)} of {_size(shm.total_bytes)} free in /dev/shm"
    advice = "make it larger (containers: --shm-size=8g)"
    if not shm.is_writable:
        return fault(check, "/dev/shm cannot be written to", "mount it with mode 1777")
    if shm.free_bytes < OBJECT_STORE_BYTES:
        return fault(check, f"{found}; Ray's object store takes {_size(OBJECT_STORE_BYTES)}", advice)
    if shm.free_bytes < OBJECT_STORE_BYTES + tier:
        found = f"{found}; kv_offloading_bytes asks for {_size(tier)} and Ray for {_size(OBJECT_STORE_BYTES)}"
        return warning(check, found, f"{advice}, or lower engine.cache.kv_offloading_bytes")
    return ok(check, found)


def check_open_files(facts: Facts) -> Finding:
    soft, hard = facts.host.open_files
    clients = facts.config.max_open_requests if facts.config else 1024
    needed = clients + FILES_BESIDE_CONNECTIONS
    found = f"RLIMIT_NOFILE is {_limit(soft)} (at most {_limit(hard)})"
    if soft < 0 or soft >= needed:
        return ok("open files", found)
    if 0 <= hard < needed:
        advice = "raise the hard limit (limits.conf, LimitNOFILE of systemd, --ulimit nofile of a container) to 65536"
    else:
        advice = f"ulimit -n {65536 if hard < 0 else min(hard, 65536)}"
    found = f"{found}; {clients} open requests need {needed}"
    return (warning if soft >= needed // 2 else fault)("open files", found, advice)


def check_memory(facts: Facts) -> Finding:
    host, config = facts.host, facts.config
    if host.available_bytes is None or host.total_bytes is None:
        return ok("memory", "not known on this system")
    found = f"{_size(host.available_bytes)} of {_size(host.total_bytes)} available"
    weights = sum(one.num_bytes for one in facts.models)
    if config is None or not weights:
        return ok("memory", found)
    if config.num_gpus:
        return _gpu_memory(facts, weights, found)
    needed = weights + config.kv_cache_bytes
    found = f"{found}; weights {_size(weights)}, KV cache {_size(config.kv_cache_bytes)}"
    advice = "take a smaller or more quantized model, fewer replicas, or lower engine.cache.kv_cache_memory_bytes"
    if needed > host.total_bytes:
        return fault("memory", found, advice)
    return (
        warning("memory", found, f"free memory, or {advice}") if needed > host.available_bytes else ok("memory", found)
    )


def _gpu_memory(facts: Facts, weights: int, found: str) -> Finding:
    """All ranks of the first replicas together must hold the weights at least once."""
    config, each = facts.config, facts.host.gpus.memory_bytes
    assert config is not None
    together = int(config.num_gpus * each)
    found = f"{found}; weights {_size(weights)}, {config.num_gpus:g} GPUs with {_size(together)} together"
    if each and weights > together:
        return fault("memory", found, "raise tensor_parallel_size, or take a smaller or quantized model")
    return ok("memory", found)


def check_disk(facts: Facts) -> Finding:
    weights = sum(one.num_bytes for one in facts.models)
    for folder in facts.host.folders:
        found = f"{_size(folder.free_bytes)} free for {folder.purpose} ({folder.path})"
        if folder.free_bytes < LEAST_DISK_BYTES:
            return fault("disk", found, f"free {_size(LEAST_DISK_BYTES)}, or move the folder to another disk")
        if folder.purpose == "temp files" and folder.free_bytes < (1 - RAY_STOPS_AT) * folder.total_bytes:
            found = f"{found}, under {1 - RAY_STOPS_AT:.0%} of it: Ray stops to place work"
            return warning("disk", found, "free some of it, or set RAY_TMPDIR to another disk")
        if folder.purpose == "packed weights" and folder.free_bytes < weights:
            found = f"{found}; packed, the model takes some {_size(weights)}"
            return warning("disk", found, "free some of it, or set engine.weight_cache_bytes to 0")
    return ok("disk", ", ".join(f"{_size(one.free_bytes)} free for {one.purpose}" for one in facts.host.folders))


def check_folders(facts: Facts) -> Finding:
    for folder in facts.host.folders:
        if not folder.is_writable:
            return fault("folders", f"{folder.path} ({folder.purpose}) cannot be written to", _how_to_move(folder))
    return ok("folders", ", ".join(f"{one.path} ({one.purpose})" for one in facts.host.folders) + " can be written to")


def check_clock(facts: Facts) -> Finding:
    clock, drift = facts.host.clock, facts.host.clock.wall_step_s - facts.host.clock.monotonic_step_s
    here = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(clock.wall_s))
    advice = "set the clock (timedatectl set-ntp true, or chronyd): keys expire and logs are dated by it"
    if clock.wall_s < clock.newest_file_s - 86400:
        return fault("clock", f"{here} is before Manta's own files were written", advice)
    if clock.monotonic_step_s <= 0 or abs(drift) > CLOCK_TOLERANCE_S:
        return warning("clock", f"{here}; it was set, or jumps: {drift:+.3f} s against the monotonic clock", advice)
    return ok("clock", here)


def _fits(package: Package) -> bool:
    assert package.installed is not None
    return SpecifierSet(package.wanted).contains(package.installed, prereleases=True)


def _how_to_move(folder: Folder) -> str:
    move = {"temp files": "set RAY_TMPDIR", "downloaded models": "set HF_HOME"}.get(folder.purpose, "set HOME")
    return f"make it writable (chown, chmod), or {move} to a folder that is"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def _limit(number: int) -> str:
    return "unlimited" if number < 0 else str(number)
