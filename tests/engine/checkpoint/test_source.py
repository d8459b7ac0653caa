import subprocess
import sys
from pathlib import Path

import pytest

from engine.checkpoint.source import ModelFiles, resolve
from engine.errors import ModelError


class Hub:
    """Has every model in one folder and as one .gguf file, and notes what it is asked for."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder, self.file = folder, file
        self.asked: list[tuple[object, ...]] = []

    def download(self, repo_id: str, revision: str | None, *, weights: bool) -> Path:
        self.asked.append((repo_id, revision, weights))
        return self.folder

    def download_gguf(self, repo_id: str, revision: str | None, quantization: str, *, weights: bool) -> Path:
        self.asked.append((repo_id, revision, quantization, weights))
        return self.file


class Unreachable:
    def download(self, repo_id: str, revision: str | None, *, weights: bool) -> Path:
        raise ModelError(f"{repo_id}: the hub could not be reached")

    def download_gguf(self, repo_id: str, revision: str | None, quantization: str, *, weights: bool) -> Path:
        raise ModelError(f"{repo_id}: the hub could not be reached")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_folder_with_a_config_is_a_folder(folder):
    assert resolve(str(folder)) == ModelFiles("folder", folder)


def test_a_gguf_file_is_a_gguf(tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert resolve(str(tmp_path / "tiny.gguf")) == ModelFiles("gguf", tmp_path / "tiny.gguf")


def test_a_hub_id_is_downloaded_at_its_revision(folder):
    hub = Hub(folder, folder / "none.gguf")
    assert resolve("org/name", hub).path == folder
    assert resolve("org/name-1.5B@refs/pr/3", hub, weights=False).path == folder
    assert hub.asked == [("org/name", None, True), ("org/name-1.5B", "refs/pr/3", False)]


def test_a_quantization_behind_a_hub_id_is_one_of_its_gguf_files(folder):
    file = folder / "tiny.gguf"
    file.write_bytes(b"GGUF")
    hub = Hub(folder, file)
    assert resolve("org/name-GGUF:Q4_K_M", hub) == ModelFiles("gguf", file)
    assert resolve("org/name@v1.0:UD-Q4_K_XL", hub, weights=False) == ModelFiles("gguf", file)
    assert hub.asked == [("org/name-GGUF", None, "Q4_K_M", True), ("org/name", "v1.0", "UD-Q4_K_XL", False)]


def test_an_unreachable_hub_names_the_other_sources():
    with pytest.raises(ModelError, match=r"org/name: the hub could not.*folder.*\.gguf.*package:"):
        resolve("org/name", Unreachable())


def test_a_file_in_a_package_is_found_without_importing_the_package(tmp_path, monkeypatch):
    (tmp_path / "exploding").mkdir()
    (tmp_path / "exploding" / "__init__.py").write_text("raise AssertionError")
    (tmp_path / "exploding" / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:exploding/tiny.gguf").path == tmp_path / "exploding" / "tiny.gguf"
    with pytest.raises(ModelError, match="has no file"):
        resolve("package:exploding/other.gguf")
    with pytest.raises(ModelError, match="has no file"):
        resolve("package:exploding/../../etc/passwd")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:not_there_at_all/x.gguf", "no package 'not_there_at_all' is installed"),
        ("package:tests", "package:NAME/FILE"),
        ("./not/there.gguf", "no such file"),
        ("not there", "neither a file nor a hub id"),
        ("kernels", "no config.json"),
        ("pyproject.toml", "not a .gguf file"),
    ],
)
def test_what_cannot_be_found_is_said(source, message):
    with pytest.raises(ModelError, match=message):
        resolve(source, Unreachable())


def test_resolving_and_reading_an_index_do_not_load_torch():
    code = "import sys, engine.checkpoint.source, engine.checkpoint.gguf_file; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
