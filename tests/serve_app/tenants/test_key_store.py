from datetime import UTC, datetime, timedelta

import pytest

from configs.load import ConfigError
from configs.schema import ApiConfig, Config, ModelConfig
from serve_app.tenants.key_store import KeyStore

NOW = datetime(2026, 11, 27, tzinfo=UTC)


class Clocks:
    now_s = 0.0
    now = NOW


def store(path=None, clocks=None, environment=None, **api):
    clocks = clocks or Clocks()
    api = ApiConfig(api_keys_file=None if path is None else str(path), **api)
    config = Config(models=(ModelConfig(served_model_name="toy", model="unused"),), api=api)
    return KeyStore(config, environment or {}, lambda: clocks.now_s, lambda: clocks.now)


def test_a_server_without_keys_is_open():
    assert store().is_open
    assert not store(environment={"MANTA_API_KEYS": "a"}).is_open


def test_keys_that_are_required_must_be_there():
    with pytest.raises(ConfigError, match="api.require_api_keys: there is no key"):
        store(require_api_keys=True)
    store(require_api_keys=True, environment={"MANTA_API_KEYS": "a"})


def test_a_key_is_refused_once_it_has_expired(tmp_path):
    path, clocks = tmp_path / "keys.yaml", Clocks()
    path.write_text("keys: [{name: alice, key: a, expires: 2026-11-28}]")
    keys = store(path, clocks)
    assert keys.find("a").name == "alice" and keys.find("b") is None and keys.find("") is None
    clocks.now = NOW + timedelta(days=1)
    assert keys.find("a") is None


def test_keys_change_while_the_server_runs(tmp_path):
    path, clocks = tmp_path / "keys.yaml", Clocks()
    path.write_text("keys: [{name: alice, key: a, limits: {requests_per_minute: 5}}]")
    keys = store(path, clocks)
    alice = keys.find("a")
    path.write_text("keys: [{name: alice, key: new}, {name: bob, key: b}]")
    clocks.now_s += 2
    assert keys.find("a") is None and keys.find("b").name == "bob"
    assert keys.find("new") is alice and alice.limits.requests_per_minute is None


@pytest.mark.parametrize("text", ["keys: [{name: alice}]", "nonsense", None])
def test_a_file_that_breaks_changes_nothing(tmp_path, text, caplog):
    path, clocks = tmp_path / "keys.yaml", Clocks()
    path.write_text("keys: [{name: alice, key: a-secret}]")
    keys = store(path, clocks)
    path.unlink() if text is None else path.write_text(text)
    clocks.now_s += 2
    assert keys.find("a-secret").name == "alice"
    assert "stay as they were" in caplog.text and "a-secret" not in caplog.text


def test_an_empty_file_opens_nothing(tmp_path):
    path, clocks = tmp_path / "keys.yaml", Clocks()
    path.write_text("keys: [{name: alice, key: a}]")
    keys = store(path, clocks)
    path.write_text("keys: []")
    clocks.now_s += 2
    assert keys.find("a") is None and not keys.is_open
