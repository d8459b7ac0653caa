"""Ray's token of a checkout."""

import os
from pathlib import Path

import pytest

from scripts import start


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_token_is_drawn_once_and_only_its_owner_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.setattr(start, "ROOT", tmp_path)
    before = os.umask(umask)
    try:
        path = Path(start.switches()["RAY_AUTH_TOKEN_PATH"])
    finally:
        os.umask(before)
    token = path.read_text()
    assert len(token) == 64 and path.stat().st_mode & 0o777 == 0o600
    start.switches()
    assert path.read_text() == token


def test_a_token_that_others_can_read_is_refused_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "ROOT", tmp_path)
    path = Path(start.switches()["RAY_AUTH_TOKEN_PATH"])
    path.chmod(0o644)
    with pytest.raises(SystemExit, match=r"\[token\] .*ray-token: others have access \(mode 0644\), must be 0600"):
        start.switches()
