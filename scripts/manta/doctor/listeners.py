"""TCP listeners of this machine and the programs that hold them, from Linux's /proc."""

import contextlib
import ipaddress
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from scripts.manta.doctor.facts import Listener

__all__ = ["auth_mode_of", "listeners", "parse_table", "program_of"]

LISTEN = "0A"
# titles of Ray's processes, of its servers, and of HAProxy
OURS = re.compile(r"ray::|gcs_server|raylet|haproxy|ray[./_-](dashboard|_private|util)|manta|^serve$|^ray$")


def listeners(proc: Path = Path("/proc")) -> tuple[Listener, ...] | None:
    """None where there is no /proc/net/tcp. Of other users' processes only the port is known."""
    tables = [path for path in (proc / "net" / "tcp", proc / "net" / "tcp6") if path.exists()]
    if not tables:
        return None
    sockets = [one for path in tables for one in parse_table(path.read_text())]
    holders = dict(_holders(proc, {inode for _, _, inode in sockets}))
    found = []
    for address, port, inode in sockets:
        pid = holders.get(inode)
        program = _program(proc, pid) if pid else ""
        one = Listener(address=address, port=port, program=program, pid=pid, is_ours=bool(OURS.search(program)))
        found.append(msgspec.structs.replace(one, auth_mode=auth_mode_of(proc, pid)) if pid and one.is_ours else one)
    return tuple(found)


def auth_mode_of(proc: Path, pid: int) -> str:
    """RAY_AUTH_MODE of a process, else of its parent: Ray's workers write their titles over their environment."""
    with contextlib.suppress(OSError):
        parent = re.search(r"(?m)^PPid:\s*(\d+)", (proc / str(pid) / "status").read_text())
        for number in (str(pid), *([parent[1]] if parent else [])):
            mode = re.search(rb"(?:^|\0)RAY_AUTH_MODE=(\w*)", (proc / number / "environ").read_bytes())
            if mode:
                return mode[1].decode().lower()
    return ""


def parse_table(text: str) -> Iterator[tuple[str, int, str]]:
    """(address, port, inode) of each listening socket of /proc/net/tcp or tcp6."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTEN:
            address, _, port = fields[1].partition(":")
            yield _address(address), int(port, 16), fields[9]


def _address(digits: str) -> str:
    """The kernel prints words of four bytes as numbers of this machine's byte order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    return str(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))


def _holders(proc: Path, inodes: set[str]) -> Iterator[tuple[str, int]]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # another user's, or it has ended
            for entry in os.scandir(folder / "fd"):
                with contextlib.suppress(OSError):
                    if inode := wanted.get(os.readlink(entry.path)):
                        yield inode, int(folder.name)


def _program(proc: Path, pid: int) -> str:
    with contextlib.suppress(OSError):
        return program_of((proc / str(pid) / "cmdline").read_bytes())
    return ""


def program_of(command_line: bytes) -> str:
    """The program's name, of an interpreter that of its script or module. Arguments may be secret: none is shown."""
    words = command_line.decode("utf-8", "replace").rstrip("\0").split("\0")
    if words[0].startswith("ray::"):  # a title that Ray has set
        return words[0].strip()[:60]
    name = words[0].rpartition("/")[2]
    if not re.match(r"python|pypy", name):
        return name[:60]
    if "-m" in words[1:-1]:
        return words[words.index("-m") + 1][:60]
    script = next((word for word in words[1:] if word.endswith(".py") or "/bin/" in word), "")
    parts = Path(script).parts
    if "ray" in parts:  # ray/dashboard/dashboard.py
        return "/".join(parts[parts.index("ray") :])[:60]
    return (Path(script).name or name)[:60]
