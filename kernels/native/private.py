"""Files and folders that only this user can write to. What others can write to is neither loaded nor read."""

import errno
import os
import stat
from pathlib import Path

__all__ = ["NotPrivateError", "check_file", "make_file", "make_folder", "open_file"]


class NotPrivateError(Exception):
    """Others can write there. The message says where, what is wrong, and what to do."""


def make_file(path: Path) -> int:
    """Makes a file of this user's with mode 0600, whatever the umask is, and opens it for reading and writing."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    os.fchmod(file, 0o600)
    return file


def open_file(path: Path) -> int:
    """Opens what `make_file` made. Raises NotPrivateError if it is something else, and OSError as os.open does."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe in its place lets nobody wait
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotPrivateError(f"{path}: is a symbolic link, must be a file; remove it") from None
        raise
    try:
        check_file(path, os.fstat(file), 0o077)
    except NotPrivateError:
        os.close(file)
        raise
    return file


def make_folder(path: Path) -> Path:
    """Makes a folder with mode 0700, and what lacks above it likewise, whatever the umask is. One that is there must be
    this user's, and nobody else may be able to write to it or to replace it. Returns its real path.
    """
    for folder in reversed([path, *path.parents]):
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError:
            if not folder.is_dir():  # above what is ours mkdir may fail on what is there
                raise
            continue
        folder.chmod(0o700)
    real = path.resolve()
    _check_folder(real)
    return real


def _check_folder(real: Path) -> None:
    """Raises NotPrivateError unless a folder is this user's and only root and he can write to it or replace it."""
    found = real.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivateError(f"{real}: must be a folder; remove it")
    if found.st_uid != os.geteuid():
        raise NotPrivateError(f"{real}: belongs to user {found.st_uid}, must belong to user {os.geteuid()}; remove it")
    for folder in (real, *real.parents):
        found = folder.lstat()
        is_sticky = folder != real and found.st_mode & stat.S_ISVTX  # there nobody renames what is another's
        if found.st_uid not in (0, os.geteuid()):
            raise NotPrivateError(f"{folder}: belongs to user {found.st_uid}, who can replace {real}")
        if found.st_mode & 0o022 and not is_sticky:
            mode = stat.S_IMODE(found.st_mode)
            what = "remove it, or what others put there is run" if folder == real else f"run chmod go-w {folder}"
            raise NotPrivateError(f"{folder}: others can write to it (mode {mode:04o}); {what}")


def check_file(path: Path, found: os.stat_result, forbidden: int = 0o022) -> None:
    """Raises NotPrivateError unless it is a file of this user's that has none of the forbidden bits in its mode."""
    if not stat.S_ISREG(found.st_mode):
        raise NotPrivateError(f"{path}: must be a regular file; remove it")
    if found.st_uid != os.geteuid():
        raise NotPrivateError(f"{path}: belongs to user {found.st_uid}, must belong to user {os.geteuid()}; remove it")
    if stat.S_IMODE(found.st_mode) & forbidden:
        mode = stat.S_IMODE(found.st_mode)
        raise NotPrivateError(
            f"{path}: others have access (mode {mode:04o}), must be {mode & ~forbidden:04o}; remove it"
        )
