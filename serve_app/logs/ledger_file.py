"""A file of the usage ledger, rotated by bytes; what processes that have ended left is kept within the same bounds."""

import contextlib
import fcntl
import os
import re
from pathlib import Path

from configs.schema import UsageLedgerConfig

__all__ = ["LedgerFile", "ledger_name", "remove_dead"]

NAME = re.compile(r"(usage-.+-)\d+\.jsonl")  # its first group names the node


def ledger_name(node: str, pid: int) -> str:
    return f"usage-{node}-{pid}.jsonl"


class LedgerFile:
    """Whole lines: unlike logging's RotatingFileHandler it takes back what a full disk has cut.

    While it is open its process has a shared lock on it, by which others know that it is not a dead one's.
    """

    def __init__(self, path: Path, config: UsageLedgerConfig) -> None:
        self._path, self._config = path, config
        self._fd, self._num_bytes = -1, 0

    def open(self) -> None:
        """Removes what dead processes have left beyond the bounds, too."""
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        with contextlib.suppress(OSError):  # a file system without locks: then nothing is removed
            fcntl.flock(self._fd, fcntl.LOCK_SH)  # waits for one that asks whether this is dead, some microseconds
        self._num_bytes = os.fstat(self._fd).st_size
        remove_dead(self._path, self._config)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, line: bytes) -> None:
        """Raises OSError, without a part of the line in the file."""
        if self._num_bytes and self._num_bytes + len(line) > self._config.max_bytes:
            self._rotate()
        if self._fd < 0:
            self.open()
        written = 0
        try:
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError:
            if written:
                os.ftruncate(self._fd, self._num_bytes)
            raise
        self._num_bytes += len(line)

    def sync(self) -> None:
        if self._config.fsync and self._fd >= 0:
            os.fsync(self._fd)

    def _rotate(self) -> None:
        """NAME.jsonl becomes NAME.jsonl.1, that one NAME.jsonl.2, and so on; the oldest is dropped."""
        self.sync()
        self.close()
        older = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._config.num_files + 1)]
        for source, target in reversed(list(zip([self._path, *older], older, strict=False))):
            if source.exists():
                os.replace(source, target)
        self.open()


def remove_dead(path: Path, config: UsageLedgerConfig) -> None:
    """Removes the oldest files of this node's dead processes: `num_files` of them stay, of `max_bytes` each.

    path   the ledger of this process; other nodes' files in its folder are theirs to remove
    """
    node = _node(path)
    dead = [one for one in path.parent.glob(f"{node}*.jsonl") if _node(one) == node and _is_dead(one)]
    files = [file for one in dead for file in (one, *path.parent.glob(f"{one.name}.*"))]
    num_kept, num_bytes = 0, 0
    for file, found in sorted(_stats(files), key=lambda pair: pair[1].st_mtime_ns, reverse=True):
        num_kept, num_bytes = num_kept + 1, num_bytes + found.st_size
        if num_kept > config.num_files or num_bytes > config.num_files * config.max_bytes:
            with contextlib.suppress(OSError):
                file.unlink()


def _node(path: Path) -> str:
    matched = NAME.fullmatch(path.name)
    return matched[1] if matched is not None else ""


def _is_dead(path: Path) -> bool:
    """Whether no process, of any container of this node, has the ledger open."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it is being rotated
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _stats(files: list[Path]) -> list[tuple[Path, os.stat_result]]:
    found = []
    for file in files:
        with contextlib.suppress(OSError):  # another process has removed it
            found.append((file, file.stat()))
    return found
