from datetime import UTC, datetime

import msgspec
import pytest

from configs.keys import digest, read_keys, without_keys
from configs.load import ConfigError
from configs.schema import ApiConfig, KeyLimits
from tests.readme import block

SECRET = "sk-alices-secret"


def file(tmp_path, text):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    return ApiConfig(api_keys_file=str(path))


def test_keys_of_config_environment_and_file_stand_beside_each_other(tmp_path):
    api = file(
        tmp_path,
        f"""
keys:
- name: alice
  key: {SECRET}
  expires: 2027-01-31
  limits: {{requests_per_minute: 60, min_priority: -5}}
- name: bob
  key: sha256:{digest("bobs")}
  expires: 2027-01-31T12:00:00+02:00
  shares_cache: true
""",
    )
    api = msgspec.structs.replace(api, api_keys=("plain", f"sha256:{digest('hashed')}"))
    keys = {key.sha256: key for key in read_keys(api, {"MANTA_API_KEYS": "carol=c, lone"})}
    assert set(keys) == {digest(key) for key in (SECRET, "bobs", "plain", "hashed", "c", "lone")}
    alice, bob, carol = (keys[digest(key)] for key in (SECRET, "bobs", "c"))
    assert (alice.name, bob.name, carol.name) == ("alice", "bob", "carol")
    assert alice.expires == datetime(2027, 1, 31, tzinfo=UTC) and bob.expires == datetime(2027, 1, 31, 10, tzinfo=UTC)
    assert alice.limits == KeyLimits(requests_per_minute=60, min_priority=-5) and bob.limits is None
    assert bob.shares_cache and not alice.shares_cache


def test_nothing_that_is_kept_shows_a_key(tmp_path):
    api = file(tmp_path, f"keys: [{{name: alice, key: {SECRET}}}]")
    assert SECRET not in repr(read_keys(api, {"MANTA_API_KEYS": "x" + SECRET}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"keys: [{{name: alice, kye: {SECRET}}}]", "keys.0.kye: no such key"),
        (f"keys: [{{name: alice, key: {SECRET}, expires: soon}}]", "keys.0.expires: must be a date"),
        (f"keys: [{{name: a, key: {SECRET}}}, {{name: a, key: other}}]", "two keys are named 'a'"),
        (f"keys: [{{name: a, key: {SECRET}}}, {{name: b, key: {SECRET}}}]", "are the same key"),
        ("keys: [{name: alice, key: 'sha256:12'}]", "keys.0.key: must be a key, or sha256:"),
        (f"keys: [{{name: alice, key: {SECRET}, limits: {{requests_per_minute: 0}}}}]", "keys.0.limits.requests"),
        (f"keys: [{SECRET}", "is not YAML"),
        (f"{SECRET}", ""),
    ],
)
def test_a_wrong_file_is_refused_in_words_that_tell_no_key(tmp_path, text, told):
    with pytest.raises(ConfigError) as error:
        read_keys(file(tmp_path, text), {})
    assert told in str(error.value)
    assert SECRET not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"api\.api_keys_file: .*nowhere\.yaml: No such file"):
        read_keys(ApiConfig(api_keys_file=str(tmp_path / "nowhere.yaml")), {})


def test_the_readmes_file_is_read(tmp_path):
    (alice,) = read_keys(file(tmp_path, block("keys:")), {})
    assert (alice.name, alice.sha256) == ("alice", digest("secret")) and alice.expires is not None


def test_what_is_handed_around_has_hashes_and_means_the_same():
    api = ApiConfig(api_keys=(SECRET, f"sha256:{digest('other')}"))
    assert SECRET not in repr(without_keys(api))
    assert read_keys(without_keys(api), {}) == read_keys(api, {})
