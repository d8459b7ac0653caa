"""Ray's token of a checkout, and of a user."""

import os
from pathlib import Path

import pytest

from scripts.manta import ray_token


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_token_is_drawn_once_and_only_its_owner_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(ray_token, "ROOT", tmp_path)
    before = os.umask(umask)
    try:
        path = ray_token.token_file()
    finally:
        os.umask(before)
    token = path.read_text()
    assert len(token) == 64 and path.stat().st_mode & 0o777 == 0o600
    ray_token.token_file()
    assert path.read_text() == token


def test_a_token_that_others_can_read_is_refused_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(ray_token, "ROOT", tmp_path)
    path = ray_token.token_file()
    path.chmod(0o644)
    with pytest.raises(SystemExit, match=r"\[token\] .*ray-token: others have access \(mode 0644\), must be 0600"):
        ray_token.token_file()


def test_an_installed_command_has_one_for_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(ray_token, "ROOT", tmp_path / "site-packages")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = ray_token.token_file()
    assert path == tmp_path / ".cache" / "manta" / "ray-token"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
