"""Every config key is an option, and what it is set to reaches the document that is deployed."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import load_args
from scripts.config_table import ConfigKey, config_keys
from scripts.manta.deployment import DeploymentError, deployment_of, effective
from scripts.manta.main import main
from scripts.manta.options import add_config_options, find_keys, parse, settings_of, spellings_of
from tests.readme import ROOT

TWO_MODELS = str(ROOT / "configs" / "two_models.yaml")
# no two switches are read by chance: a value for every kind of key
EXAMPLES = {"true, false": "true", "text": "some", "a list of text": "one,two"}


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="test", allow_abbrev=False)
    add_config_options(parser)
    return parse(parser, words)


def example(key: ConfigKey) -> str:
    """A value that the key accepts."""
    if key.default not in ("unset", "needed", "[]"):
        return key.default
    accepted = key.accepted.partition(" of at most")[0]
    return EXAMPLES.get(accepted, "1" if "integer" in accepted or "number" in accepted else accepted.split(", ")[0])


@pytest.mark.parametrize("key", config_keys(), ids=lambda key: key.name)
def test_a_key_is_set_by_its_shortest_and_by_its_whole_name(key: ConfigKey) -> None:
    spellings = spellings_of(config_keys())[key]
    for spelling in (spellings[0], spellings[-1]):
        ((found, value),) = settings_of(options(f"--{spelling}={example(key)}"))
        assert found == key and value is not None
    assert spellings[-1] == ".".join(key.path).replace("_", "-")


def test_no_two_keys_share_a_spelling() -> None:
    spellings = [spelling for all_of_key in spellings_of(config_keys()).values() for spelling in all_of_key]
    assert len(spellings) == len(set(spellings))
    assert not set(spellings) & {"host", "port", "dashboard-port", "front", "help"}


def test_the_model_has_the_short_name_that_others_would_have_too() -> None:
    names = {spellings[0]: key.name for key, spellings in spellings_of(config_keys()).items()}
    assert names["num-replicas"] == "models[].num_replicas"
    assert names["ingress.num-replicas"] == "ingress.num_replicas"


def test_a_switch_is_true_alone_and_false_with_no() -> None:
    (key,) = find_keys("api.require_api_keys")
    for words, value in ((["--require-api-keys"], True), (["--no-require-api-keys"], False)):
        assert settings_of(options(*words)) == [(key, value)]
    assert settings_of(options("--require-api-keys", "false")) == [(key, False)]


def test_a_model_alone_is_enough_and_is_served_on_loopback() -> None:
    document = deployment_of("org/name@main", [])
    assert document["http_options"] == {"host": "127.0.0.1", "port": 8000}
    (model,) = load_args(document["applications"][0]["args"]).models
    assert document["applications"][0]["args"]["models"][0] | {"resources": None} == {
        "served_model_name": "org/name",
        "model": "org/name@main",
        "resources": None,
    }
    assert model.resources.num_cpus + model.resources.num_gpus >= 1


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("org/name", "org/name"),
        ("org/name@v1", "org/name"),
        ("org/name-GGUF:Q4_K_M", "org/name-GGUF:Q4_K_M"),
        ("/models/tiny.gguf", "tiny"),
        ("package:somewhere/tiny.gguf", "tiny"),
        ("configs", "configs"),
    ],
)
def test_a_model_is_called_as_its_source(source: str, name: str) -> None:
    assert deployment_of(source, [])["applications"][0]["args"]["models"][0]["served_model_name"] == name


def test_options_win_over_the_file_and_leave_the_rest_of_it() -> None:
    given = settings_of(options("--num-replicas", "7", "--block-size", "32", "--ingress.num-replicas", "3"))
    args = deployment_of(None, given)["applications"][0]["args"]
    config = load_args(args)
    assert (config.models[0].num_replicas, config.models[0].engine.cache.block_size) == (7, 32)
    assert config.ingress.num_replicas == 3
    assert args["wire"] == {"bind": "127.0.0.1"} and config.ingress.drain_s == 5


def test_a_models_key_for_a_file_of_several_is_refused() -> None:
    with pytest.raises(DeploymentError, match=r"models\[\]\.num_replicas: the config has several models; set it there"):
        deployment_of(TWO_MODELS, settings_of(options("--num-replicas", "7")))
    deployment_of(TWO_MODELS, settings_of(options("--ingress.num-replicas", "7")))


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    main(["config", *arguments])
    return yaml.safe_load(capsys.readouterr().out)


def test_config_prints_a_file_that_means_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    printed = shown(capsys, "org/name", "--num-replicas", "2")
    (args,) = (application["args"] for application in printed["applications"])
    (key,) = find_keys("block_size")
    assert args["models"][0]["engine"]["cache"]["block_size"] == int(key.default)  # defaults are there too
    (tmp_path / "printed.yaml").write_text(yaml.safe_dump(printed))
    assert shown(capsys, str(tmp_path / "printed.yaml")) == printed
    assert load_args(args).models[0].num_replicas == 2


def test_config_prints_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "org/name", "--api-keys", "hunter2", "--secret", "swordfish"])
    done = capsys.readouterr()
    assert "hunter2" not in done.out and "swordfish" not in done.out
    assert "sha256:" in done.out and "wire.secret is set" in done.err


def test_config_explains_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "block-size"])
    assert capsys.readouterr().out.splitlines() == [
        "models[].engine.cache.block_size",
        "  tokens in a KV block",
        "  default: 16",
        "  accepts: an integer of at least 1",
        "  option:  --block-size",
    ]
    main(["config", TWO_MODELS, "num_replicas"])
    text = capsys.readouterr().out
    assert text.count("here:") == 3  # of two models, and of the ingress


def test_the_effective_config_of_every_shipped_file_is_itself() -> None:
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        document = deployment_of(str(path), [])
        args = document["applications"][0]["args"]
        assert load_args(effective(document)["applications"][0]["args"]).models == load_args(args).models
