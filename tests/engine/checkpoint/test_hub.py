"""Which revision of a hub's model is taken, and which of its files, by whom."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.load import load_file
from engine.checkpoint import hub
from engine.checkpoint.gguf_file import read_metadata
from engine.checkpoint.source import resolve
from engine.errors import ModelError
from tests.engine.checkpoint.fake_hub import COMMIT, FakeHub, environment_of, gguf
from tests.readme import ROOT


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

    class Hub:
        def download(self, repo_id, revision, *, weights):
            asked.append(revision)
            return Path(ROOT)  # which is no model's folder

    for model in load_file(path).models:
        if not model.model.startswith("package:"):
            with pytest.raises(Exception, match="has no config.json"):
                resolve(model.model, Hub())
    assert all(revision and re.fullmatch("[0-9a-f]{40}", revision) for revision in asked)
    assert asked or path.stem == "quickstart"


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    """A model with everything that a ready-made folder of the hub has, and more."""
    files = {
        "config.json": b"{}",
        "tokenizer.json": b"[]",
        "model.safetensors": b"w" * 100_000,
        "model.safetensors.index.json": b"[1]",
        "chat_template.jinja": b"{# #}",
        "modeling_evil.py": b"raise SystemExit",
        "pytorch_model.bin": b"p" * 1000,
        "onnx/model.onnx": b"o" * 1000,
        "README.md": b"#",
    }
    with FakeHub({"org/name": files}) as hub:
        yield hub


def resolved(hub: FakeHub, home: Path, source: str, *, weights: bool) -> Path:
    """What `resolve` finds, in a process of its own: the hub's address is read when its library is imported."""
    code = f"from engine.checkpoint.source import resolve; print(resolve({source!r}, weights={weights}).path)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment_of(hub, home), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


TEXT = {"config.json", "tokenizer.json", "model.safetensors.index.json", "chat_template.jinja"}


def test_weights_are_brought_only_for_who_needs_them(fake_hub, tmp_path):
    folder = resolved(fake_hub, tmp_path, "org/name", weights=False)
    assert {path.name for path in folder.iterdir()} == TEXT
    assert set(fake_hub.sent) == TEXT
    assert resolved(fake_hub, tmp_path, "org/name", weights=True) == folder
    assert {path.name for path in folder.iterdir()} == {*TEXT, "model.safetensors"}
    assert fake_hub.sent["model.safetensors"] == 100_000


def test_what_is_there_is_found_without_the_hub(fake_hub, tmp_path):
    folder = resolved(fake_hub, tmp_path, "org/name", weights=False)
    fake_hub.close()
    assert resolved(fake_hub, tmp_path, "org/name", weights=False) == folder


@pytest.fixture
def gguf_hub() -> Iterator[FakeHub]:
    files = {f"name-{kind}.gguf": gguf(b"x" * 40_000_000) for kind in ("Q4_K_M", "Q8_0")}
    files["mmproj-name-Q8_0.gguf"] = b""
    with FakeHub({"org/name-GGUF": files}) as hub:
        yield hub


def test_of_a_gguf_file_the_head_is_enough_for_text(gguf_hub, tmp_path):
    head = resolved(gguf_hub, tmp_path, "org/name-GGUF:q4_k_m", weights=False)
    assert read_metadata(head) == {"general.architecture": "llama"}
    assert gguf_hub.sent == {"name-Q4_K_M.gguf": hub.HEAD_BYTES}
    whole = resolved(gguf_hub, tmp_path, "org/name-GGUF:Q4_K_M", weights=True)
    assert whole.stat().st_size > 40_000_000 and whole.name == "name-Q4_K_M.gguf"
    # the whole file is there now, and nothing more is asked for
    asked = dict(gguf_hub.sent)
    assert resolved(gguf_hub, tmp_path, "org/name-GGUF:Q4_K_M", weights=False) == whole
    gguf_hub.close()
    assert resolved(gguf_hub, tmp_path, "org/name-GGUF:Q4_K_M", weights=True) == whole
    assert gguf_hub.sent == asked


@pytest.mark.parametrize("revision", ["", f"@{COMMIT}", "@main"])
def test_a_head_is_found_again_without_the_hub(gguf_hub, tmp_path, revision):
    source = f"org/name-GGUF{revision}:Q4_K_M"
    head = resolved(gguf_hub, tmp_path, source, weights=False)
    gguf_hub.close()
    assert resolved(gguf_hub, tmp_path, source, weights=False) == head


def test_of_another_quantization_the_head_is_found_beside_a_whole_file(gguf_hub, tmp_path):
    head = resolved(gguf_hub, tmp_path, "org/name-GGUF:Q4_K_M", weights=False)
    whole = resolved(gguf_hub, tmp_path, "org/name-GGUF:Q8_0", weights=True)
    gguf_hub.close()
    assert resolved(gguf_hub, tmp_path, "org/name-GGUF:Q4_K_M", weights=False) == head
    assert resolved(gguf_hub, tmp_path, "org/name-GGUF:Q8_0", weights=False) == whole


@pytest.mark.parametrize(
    ("names", "quantization", "message"),
    [
        (["m-Q4_K_M.gguf"], "Q5_K_M", r"no \.gguf file ends with 'Q5_K_M'; there are: m-Q4_K_M\.gguf"),
        (["model.safetensors"], "Q4_0", "there are: none"),
        (["m-Q4_0.gguf", "n-Q4_0.gguf"], "Q4_0", r"means several files: m-Q4_0\.gguf, n-Q4_0\.gguf"),
        (["m-Q4_0-00001-of-00002.gguf", "m-Q4_0-00002-of-00002.gguf"], "Q4_0", "is split into 2 files"),
    ],
)
def test_a_quantization_that_is_not_one_file_is_said(names, quantization, message, monkeypatch):
    monkeypatch.setattr(hub, "files_of", lambda repo_id, revision: (COMMIT, names))
    with pytest.raises(ModelError, match=rf"org/name.*{message}"):
        hub.download_gguf("org/name", None, quantization)
