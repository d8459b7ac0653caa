"""Which revision of a hub's model is taken."""

import re
from pathlib import Path

import pytest

from configs.load import load_file
from engine.checkpoint import hub
from engine.checkpoint.source import resolve
from tests.readme import ROOT

COMMIT = "b968826d9c46dd6066d109eabc6255188de91218"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the hub, whose branches are all at one commit, is asked for: [(model, revision)]."""
    asked = []

    def snapshot_download(repo_id, revision, **_):
        asked.append((repo_id, revision))
        return str(tmp_path / COMMIT)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("revision", [None, "main", "b968826"])
def test_a_revision_that_may_change_is_told_with_the_commit_that_it_is_now(asked, caplog, revision):
    assert hub.download("org/name", revision).name == COMMIT
    assert asked == [("org/name", revision)]
    assert f"org/name@{COMMIT}" in caplog.text


def test_a_commit_is_asked_for_and_nothing_is_said(asked, caplog):
    assert hub.download("org/name", COMMIT).name == COMMIT
    assert asked == [("org/name", COMMIT)] and not caplog.records


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_hub_model_of_a_shipped_config_is_pinned_to_a_commit(path):
    asked = []

    def download(repo_id, revision):
        asked.append(revision)
        return Path(ROOT)  # which is no model's folder

    for model in load_file(path).models:
        if not model.model.startswith("package:"):
            with pytest.raises(Exception, match="has no config.json"):
                resolve(model.model, download)
    assert all(revision and re.fullmatch("[0-9a-f]{40}", revision) for revision in asked)
    assert asked or path.stem == "quickstart"
