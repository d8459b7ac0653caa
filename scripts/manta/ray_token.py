"""The authentication token of a Ray cluster that `manta serve` starts: one per checkout, or per user."""

import os
import secrets
from pathlib import Path

from kernels.native.private import NotPrivateError, make_file, make_folder, open_file
from scripts.environment import ROOT

__all__ = ["token_file"]


def token_file() -> Path:
    """The token's file, readable by its owner alone; generated at first use."""
    path = _folder() / "ray-token"
    try:
        with open(make_file(path), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        try:
            os.close(open_file(path))
        except NotPrivateError as error:
            raise SystemExit(f"[token] {error}") from None
    return path


def _folder() -> Path:
    """In a clone its own `.cache`, so that two clones do not share a token; else the user's cache folder."""
    if (ROOT / "pyproject.toml").exists():
        folder = ROOT / ".cache"
        folder.mkdir(exist_ok=True)
        return folder
    try:
        return make_folder(Path("~/.cache/manta").expanduser())
    except NotPrivateError as error:
        raise SystemExit(f"[token] {error}") from None
