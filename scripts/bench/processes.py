"""Resources of a process and their growth: memory, file descriptors, sockets."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

__all__ = ["Held", "held", "slope_per_minute"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Held(msgspec.Struct):
    """The resources of one process at one moment."""

    at_s: float
    rss_mb: float
    files: list[str]  # targets of its file descriptors, without the numbers of sockets

    @property
    def num_files(self) -> int:
        return len(self.files)

    @property
    def num_sockets(self) -> int:
        return self.files.count("socket")


def held(pid: int, at_s: float) -> Held:
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(link).partition(":[")[0])
        except OSError:  # closed meanwhile
            continue
    rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return Held(at_s, rss / 1e6, sorted(links))


def slope_per_minute(samples: Sequence[Held]) -> float:
    """MB a minute: the slope of the least-squares line through the samples."""
    times = [one.at_s / 60 for one in samples]
    mean_at = sum(times) / len(times)
    mean_mb = sum(one.rss_mb for one in samples) / len(samples)
    spread = sum((at - mean_at) ** 2 for at in times)
    rise = sum((at - mean_at) * (one.rss_mb - mean_mb) for at, one in zip(times, samples, strict=True))
    return rise / spread if spread else 0.0
