"""Resumable downloads of weights from the Hugging Face Hub, into the hub library's own cache.

The library restarts an interrupted download of a file. Here a partial file stays beside the cache's blobs, under the
blob's hash, and the next download fetches the rest with an HTTP range request. The size and hash of a complete file are
checked, and it becomes a blob: the library finds it there, and downloads the remaining files.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from engine.checkpoint import hub
from engine.errors import ModelError

__all__ = ["ResumingHub"]

MAX_BYTES = 50 * 10**9  # largest file that the hub serves over plain HTTP
SHA256 = re.compile(r"[0-9a-f]{64}")
CHUNK_BYTES = 1 << 20


class ResumingHub:
    """A Hub of `engine.checkpoint.source.resolve`."""

    def download(self, repo_id: str, revision: str | None, *, weights: bool) -> Path:
        if weights:
            _download(repo_id, revision, lambda names: filter(hub.is_weights, names))
        return hub.download(repo_id, revision, weights=weights)

    def download_gguf(self, repo_id: str, revision: str | None, quantization: str, *, weights: bool) -> Path:
        if weights:
            _download(repo_id, revision, lambda names: [hub.file_of(names, quantization, repo_id)])
        return hub.download_gguf(repo_id, revision, quantization, weights=weights)


def _download(repo_id: str, revision: str | None, select_files: Callable[[list[str]], Iterable[str]]) -> None:
    """Downloads the selected files of a repository. What fails is left to the hub's library."""
    try:
        commit, names = hub.files_of(repo_id, revision)
        for name in select_files(names):
            _bring_file(repo_id, commit, name)
    except (OSError, ModelError):
        return
    except Exception as error:  # of the hub's transport
        if "huggingface_hub" not in type(error).__module__ and "http" not in type(error).__module__:
            raise


def _bring_file(repo_id: str, commit: str, name: str) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    url = hf_hub_url(repo_id, name, revision=commit)
    found = get_hf_file_metadata(url)
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model") / "blobs"
    if not found.etag or not found.size or found.size > MAX_BYTES or (blobs / found.etag).exists():
        return
    blobs.mkdir(parents=True, exist_ok=True)
    part = blobs / f"{found.etag}.manta.incomplete"
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process downloads it; the library downloads its own copy
            return
        _append_rest(url, file.fileno(), found.size, name)
    if part.stat().st_size == found.size and _has_hash(part, found.etag):
        part.replace(blobs / found.etag)
    else:
        part.unlink()


def _append_rest(url: str, file: int, size: int, name: str) -> None:
    """Appends the rest of the file up to `size`. Bytes received before an error stay."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # its exports are lazy

    start = os.fstat(file).st_size
    if start >= size:
        return
    headers = {**build_hf_headers(), "Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        response.raise_for_status()
        if response.status_code != 206:  # ranges are not supported: from the beginning
            os.ftruncate(file, 0)
            start = 0
        with tqdm(total=size, initial=start, desc=name, unit="B", unit_scale=True) as progress:
            for piece in response.iter_raw(CHUNK_BYTES):
                os.write(file, piece)
                progress.update(len(piece))


def _has_hash(path: Path, etag: str) -> bool:
    """Whether a large file has the SHA-256 of its etag; smaller files have other etags, and are not checked."""
    if not SHA256.fullmatch(etag):
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == etag
