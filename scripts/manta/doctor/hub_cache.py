"""The cache of the Hugging Face Hub as a hub: finds what is there, downloads nothing."""

import re
from pathlib import Path

from engine.checkpoint.hub import COMMIT, file_of
from engine.errors import ModelError

__all__ = ["HubCache", "NotCachedError", "hash_of"]

SHA256 = re.compile(r"[0-9a-f]{64}")


class NotCachedError(ModelError):
    """It is in no cache of this machine; the hub may have it."""


class HubCache:
    """Takes the place of engine/checkpoint/hub.py."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def download(self, repo_id: str, revision: str | None, *, weights: bool) -> Path:
        return self._snapshot(repo_id, revision)

    def download_gguf(self, repo_id: str, revision: str | None, quantization: str, *, weights: bool) -> Path:
        folder = self._snapshot(repo_id, revision)
        names = [str(path.relative_to(folder)) for path in folder.rglob("*.gguf")]
        if not names:
            raise NotCachedError(f"{repo_id}: its .gguf file is not in the hub's cache here")
        return folder / file_of(names, quantization, repo_id)

    def _snapshot(self, repo_id: str, revision: str | None) -> Path:
        repo = self._folder / f"models--{repo_id.replace('/', '--')}"
        name = revision or "main"
        commit = name
        if not COMMIT.fullmatch(name) and (repo / "refs" / name).is_file():
            commit = (repo / "refs" / name).read_text().strip()
        folder = repo / "snapshots" / commit
        if not folder.is_dir():
            raise NotCachedError(f"{repo_id}: it is not in the hub's cache here ({self._folder})")
        return folder


def hash_of(path: Path) -> str:
    """The SHA-256 that the hub's cache names a large file by; "" where it is named otherwise."""
    target = path.resolve()
    return target.name if target.parent.name == "blobs" and SHA256.fullmatch(target.name) else ""
