"""Downloads a model's files from the Hugging Face Hub.

A .gguf file is found by its quantization. An ingress needs only its metadata: of a file that is not in the cache just
the head is downloaded, by HTTP range requests.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from engine.checkpoint.gguf_file import read_metadata
from engine.errors import ModelError

__all__ = ["COMMIT", "download", "download_gguf", "file_of", "files_of", "is_weights"]

log = logging.getLogger(__name__)

T = TypeVar("T")

COMMIT = re.compile(r"[0-9a-f]{40}")

TEXT = ["*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]  # configuration, tokenizer and chat template
WEIGHTS = ["*.safetensors"]
UNWANTED = ["*/*", "consolidated*", "training_args*", "optimizer*"]  # folders hold other formats of the same weights
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")  # a shard of a split file
HEAD_BYTES = 16 << 20  # the first piece of a .gguf file's head; vocabularies of 150,000 tokens take 6 MB


def download(repo_id: str, revision: str | None, *, weights: bool = True) -> Path:
    """The folder of the model's configuration, tokenizer, chat template, and safetensors if `weights`; never code.
    Raises ModelError.
    """
    from huggingface_hub import snapshot_download

    wanted = [*TEXT, *WEIGHTS] if weights else TEXT

    def fetch() -> str:
        return snapshot_download(repo_id, revision=revision, allow_patterns=wanted, ignore_patterns=UNWANTED)

    folder = Path(_explained(fetch, _address(repo_id, revision)))
    _tell_commit(repo_id, revision, folder.name)
    return folder


def download_gguf(repo_id: str, revision: str | None, quantization: str, *, weights: bool = True) -> Path:
    """The model's .gguf file of a quantization (Q4_K_M, ...); without `weights` possibly its head alone, which has all
    metadata. Raises ModelError, which lists the quantizations that exist.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    where = _address(repo_id, revision)
    commit, names = _explained(lambda: files_of(repo_id, revision), where)
    name = file_of(names, quantization, where)
    _tell_commit(repo_id, revision, commit)
    whole = try_to_load_from_cache(repo_id, name, revision=commit)
    if isinstance(whole, str):
        return Path(whole)
    if weights:
        # by the revision's own name, so that the cache has its commit offline too
        return Path(_explained(lambda: hf_hub_download(repo_id, name, revision=revision), where))
    return _explained(lambda: _head(repo_id, revision, name, commit), where)


def files_of(repo_id: str, revision: str | None) -> tuple[str, list[str]]:
    """A revision's commit and the names of its files; offline, of those in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().model_info(repo_id, revision=revision)
        return str(found.sha), [sibling.rfilename for sibling in found.siblings or ()]
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:  # as in `_explained`
        try:
            # no pattern: it need not be complete
            folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True, allow_patterns=[]))
        except LocalEntryNotFoundError:
            commit = _commit_of_heads(repo_id, revision)
            if commit is None:
                raise error from None
            return commit, _cached_heads(repo_id, commit)
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        known = {Path(name).name for name in names}
        return folder.name, names + [name for name in _cached_heads(repo_id, folder.name) if name not in known]


def is_weights(name: str) -> bool:
    """Whether a file has weights that `download` brings."""
    return any(fnmatch(name, one) for one in WEIGHTS) and not any(fnmatch(name, one) for one in UNWANTED)


def _explained(call: Callable[[], T], where: str) -> T:
    """The result of `call`. The hub's errors become ModelError."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return call()
    except ModelError:
        raise
    except GatedRepoError as error:
        raise ModelError(f"{where}: access to this model must be granted first; log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{where}: the hub has no such model, or it is private (`hf auth login`)") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{where}: the hub's model has no such revision") from error
    except Exception as error:  # the hub client's transport errors differ between its releases
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{where}: not on this machine, and the hub could not be reached ({reason})") from error


def _address(repo_id: str, revision: str | None) -> str:
    return f"{repo_id}@{revision}" if revision else repo_id


def _tell_commit(repo_id: str, revision: str | None, commit: str) -> None:
    if not COMMIT.fullmatch(revision or ""):  # a branch or tag may move
        where = _address(repo_id, revision)
        log.warning("%s is not pinned to a commit; what it is now is %s@%s", where, repo_id, commit)


def file_of(names: Iterable[str], quantization: str, where: str) -> str:
    """The one .gguf file whose name ends with the quantization, in any case."""
    files = [name for name in names if name.endswith(".gguf") and not fnmatch(name.lower(), "*mmproj*")]
    ending = re.compile(rf"(^|[-._/]){re.escape(quantization)}(-\d{{5}}-of-\d{{5}})?\.gguf$", re.IGNORECASE)
    fitting = [name for name in files if ending.search(name)]
    if len(fitting) == 1 and not PART.search(fitting[0]):
        return fitting[0]
    if any(PART.search(name) for name in fitting):
        raise ModelError(f"{where}:{quantization} is split into {len(fitting)} files, which are not read")
    if fitting:
        raise ModelError(f"{where}:{quantization} means several files: {', '.join(fitting)}")
    known = ", ".join(files) if files else "none"
    raise ModelError(f"{where}: no .gguf file ends with {quantization!r}; there are: {known}")


def _head(repo_id: str, revision: str | None, name: str, commit: str) -> Path:
    """A file with the first bytes of a .gguf file, as many as its metadata take."""
    path = _heads_folder() / commit / f"{_flat(repo_id)}--{Path(name).name}"
    num_bytes = HEAD_BYTES
    while not _has_metadata(path):
        whole_bytes = _fetch_head(repo_id, name, commit, num_bytes, path)
        if num_bytes >= whole_bytes:
            break  # a broken file: reading it raises
        num_bytes *= 4
    _write(_ref_of_heads(repo_id, revision), commit.encode())
    return path


def _commit_of_heads(repo_id: str, revision: str | None) -> str | None:
    """The commit of a revision whose heads are in the cache."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision if _cached_heads(repo_id, revision) else None
    ref = _ref_of_heads(repo_id, revision)
    return ref.read_text() if ref.exists() else None


def _cached_heads(repo_id: str, commit: str) -> list[str]:
    """The names of a commit's .gguf files whose heads are in the cache."""
    prefix = f"{_flat(repo_id)}--"
    return [path.name.removeprefix(prefix) for path in sorted((_heads_folder() / commit).glob(f"{prefix}*.gguf"))]


def _ref_of_heads(repo_id: str, revision: str | None) -> Path:
    """A file with the commit of a revision, as the hub's library has in refs/."""
    return _heads_folder() / "refs" / f"{_flat(repo_id)}@{_flat(revision or 'main')}"


def _heads_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "manta" / "heads"


def _flat(name: str) -> str:
    return name.replace("/", "--")


def _has_metadata(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        read_metadata(path)
    except ModelError:
        return False
    return True


def _fetch_head(repo_id: str, name: str, commit: str, num_bytes: int, path: Path) -> int:
    """Writes the first `num_bytes` of a file on the hub to `path`. Returns the size of the whole file."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # its exports are lazy

    headers = {**build_hf_headers(), "Range": f"bytes=0-{num_bytes - 1}", "Accept-Encoding": "identity"}
    url = hf_hub_url(repo_id, name, revision=commit)
    head = bytearray()
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        response.raise_for_status()
        for piece in response.iter_bytes():
            head += piece
            if len(head) >= num_bytes:  # a server may ignore the range
                break
        sizes = response.headers.get("Content-Range", "").rpartition("/")[2], response.headers.get("Content-Length")
    _write(path, head)
    return next((int(size) for size in sizes if size and size.isdecimal()), len(head))


def _write(path: Path, data: bytes | bytearray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_bytes(data)
    scratch.replace(path)  # atomic: another process may write the same
