"""Downloads a Hugging Face Hub model's files to this machine."""

import logging
import re
from pathlib import Path

from engine.errors import ModelError

__all__ = ["COMMIT", "download"]

log = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
UNWANTED = ["*/*", "consolidated*", "training_args*", "optimizer*"]  # folders hold other formats of the same weights


def download(repo_id: str, revision: str | None) -> Path:
    """The folder with the model's files: safetensors, configuration, tokenizer and chat template, never code."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"{repo_id}@{revision}" if revision else repo_id
    try:
        folder = snapshot_download(repo_id, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED)
    except GatedRepoError as error:
        raise ModelError(f"{where}: access to this model must be granted first; log in with `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{where}: the hub has no such model, or it is private (`hf auth login`)") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{where}: the hub's model has no such revision") from error
    except Exception as error:  # the hub's transport has its own errors, which differ between its releases
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{where}: not on this machine, and the hub could not be reached ({reason})") from error
    if not COMMIT.fullmatch(revision or ""):  # what a branch or tag means may change
        log.warning("%s is not pinned to a commit; what it is now is %s@%s", where, repo_id, Path(folder).name)
    return Path(folder)
