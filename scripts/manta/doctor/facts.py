"""Facts of a machine, of a config, of a model's files and of a cluster's nodes, as values that checks read."""

from collections.abc import Mapping

import msgspec

__all__ = [
    "Clock",
    "Compiler",
    "Config",
    "Facts",
    "Folder",
    "Gpus",
    "Haproxy",
    "Host",
    "Listener",
    "ModelFile",
    "ModelFiles",
    "Network",
    "Node",
    "Package",
    "Ray",
    "Token",
]


class Package(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    installed: str | None  # version; None: it is not there
    wanted: str  # range, as pyproject.toml has it; "": any


class Compiler(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    error: str  # of a small file with OpenMP; "": it compiles


class Gpus(msgspec.Struct, frozen=True, kw_only=True):
    num_devices: int  # NVIDIA GPUs on the PCI bus
    listed: tuple[str, ...]  # by the driver: name, memory, driver version
    memory_bytes: int = 0  # of the smallest one
    seen_by_torch: int | None = None  # None: torch was not asked
    torch_build: str = ""  # CUDA version of torch; "": built without


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    purpose: str
    path: str
    is_writable: bool
    free_bytes: int
    total_bytes: int


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    wall_s: float  # unix seconds
    newest_file_s: float  # when the newest of our files was written
    wall_step_s: float  # between two readings of the wall clock, and of the monotonic clock
    monotonic_step_s: float


class Host(msgspec.Struct, frozen=True, kw_only=True):
    python: tuple[int, int, int]
    packages: tuple[Package, ...]
    cpu: str
    kernels: str  # name of the instruction set; "": none can be chosen
    why_not_better: str
    compiler: Compiler | None
    gpus: Gpus
    shm: Folder | None  # None: there is no /dev/shm here
    open_files: tuple[int, int]  # RLIMIT_NOFILE, soft and hard; -1: no limit
    available_bytes: int | None  # memory
    total_bytes: int | None
    folders: tuple[Folder, ...]
    clock: Clock


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    port: int
    program: str  # "": another user's
    pid: int | None
    is_ours: bool = False  # of Ray, Serve or HAProxy
    auth_mode: str = ""  # RAY_AUTH_MODE of it or of its parent; "": unset or not known


class Network(msgspec.Struct, frozen=True, kw_only=True):
    host: str  # http_options.host
    ports: Mapping[int, str]  # that a start needs -> what for
    cluster_ports: frozenset[int] = frozenset()  # of these, what `manta serve` does without
    listeners: tuple[Listener, ...] | None  # None: not known on this system


class Token(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    mode: int | None  # permissions; None: there is no such file
    is_mine: bool = True
    is_in_environment: bool = False  # RAY_AUTH_TOKEN, in place of the file


class Haproxy(msgspec.Struct, frozen=True, kw_only=True):
    is_on: bool
    program: str | None
    wrapper: str | None = None  # RAY_SERVE_HAPROXY_BINARY_PATH
    is_executable: bool = True  # both


class Node(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    is_alive: bool = True
    python: str = ""
    versions: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}  # of Ray's switches only
    skew_s: float = 0.0  # its clock, compared with this machine's
    skew_error_s: float = 0.0  # half of the round trip


class Ray(msgspec.Struct, frozen=True, kw_only=True):
    expected: Mapping[str, str]  # what `manta env` would set
    found: Mapping[str, str]  # of these, what is set
    auth_mode: str  # RAY_AUTH_MODE; "": unset
    token: Token
    haproxy: Haproxy
    temp_folder: str
    cluster: str = ""  # address of a running cluster
    nodes: tuple[Node, ...] = ()
    error: str = ""  # why the nodes could not be asked


class Config(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    error: str = ""
    num_gpus: float = 0.0  # that the first replicas need
    missing_gpus: str = ""  # why they do not fit on this machine
    kv_cache_bytes: int = 0  # on a CPU, of all replicas of all models
    kv_offloading_bytes: int = 0
    max_open_requests: int = 1024


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    num_bytes: int
    error: str = ""
    hash_is: str = ""  # "right", "wrong", "" where no hash is known, "skipped"


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    path: str = ""
    error: str = ""  # why there are none
    is_in_hub: bool = False  # it is not here, and would be downloaded
    files: tuple[ModelFile, ...] = ()
    has_tokenizer: bool = True

    @property
    def num_bytes(self) -> int:
        return sum(one.num_bytes for one in self.files)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    host: Host
    network: Network
    ray: Ray
    config: Config | None = None  # None: the doctor was asked about the machine alone
    models: tuple[ModelFiles, ...] = ()
