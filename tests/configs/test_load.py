"""A config is read, or the message starts with the dotted key."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from configs.load import ConfigError, load_args, load_file
from configs.renamed import OTHER_NAMES
from scripts.config_table import rows

FILES = sorted((Path(__file__).parent.parent.parent / "configs").glob("*.yaml"))
MODEL = {"served_model_name": "a", "model": "b"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_what_serve_and_we_accept(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    ServeDeploySchema.model_validate(document)
    assert {application["import_path"] for application in document["applications"]} == {"serve_app.main:build"}
    assert load_file(path).models


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "args: Object missing required field `models`"),
        ({"models": []}, "models: Expected `array` of length >= 1"),
        ({"model": [MODEL]}, "model: no such key; did you mean models?"),
        ({"models": [{**MODEL, "num_replica": 2}]}, "models.0.num_replica: no such key; did you mean num_replicas?"),
        (
            {"models": [{**MODEL, "engine": {"cache": {"blocksize": 2}}}]},
            "models.0.engine.cache.blocksize: no such key; did you mean block_size?",
        ),
        ({"models": [{**MODEL, "engine": {"cache": {"block_size": 0}}}]}, "models.0.engine.cache.block_size: "),
        ({"models": [{**MODEL, "num_replicas": "two"}]}, "models.0.num_replicas: Expected `int`, got `str`"),
        ({"models": [MODEL, MODEL]}, "models.1.served_model_name: 'a' names two models"),
        ({"models": [MODEL], "wire": {"suspect_s": 9.0}}, "wire.suspect_s: must lie between"),
        ({"models": [{"name": "a"}]}, "models.0.name: no such key; here it is models[].served_model_name"),
        (
            {"models": [MODEL | {"max_num_seqs": 8}]},
            "models.0.max_num_seqs: no such key; here it is models[].engine.sche",
        ),
        (
            {"models": [MODEL | {"engine": {"cuda_graphs": False}}]},
            "models.0.engine.cuda_graphs: no such key; here it is ",
        ),
        ({"llm_configs": []}, "llm_configs: no such key; here it is models"),
        (
            {"models": [MODEL | {"enable-prefix-caching": 1}]},
            "models.0.enable-prefix-caching: no such key; here it is ",
        ),
        ({"models": [MODEL], "zzz": 1}, "zzz: no such key; known here: models, api, ingress, wire"),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest_right_one(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_args(args)
    assert str(caught.value).startswith(message)


def test_the_readme_tells_every_key() -> None:
    readme = (Path(__file__).parent.parent.parent / "configs" / "README.md").read_text()
    table = list(rows())
    assert len(table) > 40
    assert [row for row in table if row not in readme] == [], "run python -m scripts.config_table"


def test_every_other_name_leads_to_a_key_that_there_is() -> None:
    keys = {row.split("`")[1] for row in rows() if row.startswith("| `")}
    for name, meant in OTHER_NAMES.items():
        first = meant.partition(",")[0].partition(";")[0].partition(":")[0].partition(" ")[0]
        known = any(key == first or key.startswith((f"{first}.", f"{first}[]")) for key in keys)
        assert known or meant.startswith(("a field", "nothing")), name


def test_a_model_has_the_name_that_it_is_served_under() -> None:
    named = [MODEL | {"served_model_name": names} for names in ("x", ["y", "z"])] + [{"model": "org/b"}]
    models = load_args({"models": named}).models
    assert [(one.name, one.aliases) for one in models] == [("x", ()), ("y", ("z",)), ("org/b", ())]
