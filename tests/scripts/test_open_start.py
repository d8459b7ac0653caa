"""What `manta serve` says when whoever reaches a port may use it."""

import pytest

from scripts.manta.server import check_keys


def document(**api: object) -> dict[str, object]:
    args = {"models": [{"served_model_name": "toy", "model": "unused"}], "api": api}
    return {"applications": [{"args": args}]}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_a_public_address_without_keys_is_warned_of(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_keys(document(), host)
    assert f"WARNING: this listens on {host} without API keys" in capsys.readouterr().err


@pytest.mark.parametrize(("host", "keys"), [("127.0.0.1", []), ("localhost", []), ("0.0.0.0", ["k"])])
def test_loopback_or_a_key_is_not(host: str, keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    check_keys(document(api_keys=keys), host)
    assert capsys.readouterr().err == ""


def test_a_host_by_name_counts_as_public(capsys: pytest.CaptureFixture[str]) -> None:
    check_keys(document(), "node-1.example.org")
    assert "WARNING" in capsys.readouterr().err


def test_shipped_files_that_listen_publicly_ask_for_keys() -> None:
    from configs.load import load_file
    from tests.readme import ROOT

    files = sorted((ROOT / "configs").glob("*.yaml"))
    open_files = [path.name for path in files if not load_file(path).api.require_api_keys]
    assert len(files) > 5 and open_files == ["quickstart.yaml"]


def test_a_file_that_asks_for_keys_does_not_start_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANTA_API_KEYS", raising=False)
    with pytest.raises(SystemExit, match="there is no key. Set MANTA_API_KEYS"):
        check_keys(document(require_api_keys=True), "127.0.0.1")
    monkeypatch.setenv("MANTA_API_KEYS", "alice=secret")
    check_keys(document(require_api_keys=True), "0.0.0.0")
