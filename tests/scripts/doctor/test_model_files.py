"""A model's files on the disk: whole, cut off, of another content than the hub's cache names, not there."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from scripts.manta.doctor.facts import ModelFiles
from scripts.manta.doctor.hub_cache import HubCache
from scripts.manta.doctor.model_files import INDEX, model_files, safetensors_error


def write_safetensors(path: Path, *names: str) -> None:
    """Each tensor has one fp32 number."""
    at = {name: [4 * place, 4 * place + 4] for place, name in enumerate(names)}
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": offsets} for name, offsets in at.items()}
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(4 * len(names)))


def write_model(folder: Path) -> None:
    """In two files, with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    write_safetensors(folder / "1.safetensors", "a", "b")
    write_safetensors(folder / "2.safetensors", "c")
    index = {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))


def looked_at(source: Path | str, hub: Path = Path("/nonexistent"), verify: bool = False) -> ModelFiles:
    return model_files(str(source), HubCache(hub), verify=verify)


def errors(found: ModelFiles) -> dict[str, str]:
    return {one.name: one.error for one in found.files if one.error}


def cut_off(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


def test_a_complete_model_has_no_error(tmp_path: Path) -> None:
    write_model(tmp_path)
    found = looked_at(tmp_path)
    assert errors(found) == {} and not found.error and found.has_tokenizer
    assert [one.name for one in found.files] == ["config.json", INDEX, "1.safetensors", "2.safetensors"]
    assert found.num_bytes == sum((tmp_path / one.name).stat().st_size for one in found.files)


def test_a_file_that_ends_too_early_is_found_by_its_head(tmp_path: Path) -> None:
    write_model(tmp_path)
    cut_off(tmp_path / "1.safetensors", 3)
    assert errors(looked_at(tmp_path)) == {"1.safetensors": "truncated: 3 of 8 bytes of tensors are missing"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated: 0 bytes"),
        (struct.pack("<Q", 4000) + b"{}", "truncated: 10 bytes, its head alone has 4000"),
        (b"<html>not a model</html>", "not a .safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "its head has no offsets"),
        (struct.pack("<Q", 2) + b"{]", "its head is no JSON"),
        (struct.pack("<Q", 2) + b"{}more", "4 bytes too long"),
    ],
)
def test_what_is_no_safetensors_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    assert message in safetensors_error(tmp_path / "x")


def test_a_tensor_that_only_the_index_has_is_missed(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_safetensors(tmp_path / "1.safetensors", "a")
    assert errors(looked_at(tmp_path)) == {"1.safetensors": "lacks 1 tensors of the index, such as b"}


def test_a_file_that_only_the_index_has_is_missed(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "2.safetensors").unlink()
    assert errors(looked_at(tmp_path)) == {"2.safetensors": "cannot be read: No such file or directory"}


@pytest.mark.parametrize("index", ['{"weight_map": [1]}', "{}", "[]", "no JSON"])
def test_an_index_that_is_none_is_an_error_of_its_own(index: str, tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / INDEX).write_text(index)
    assert list(errors(looked_at(tmp_path))) == [INDEX]


def test_a_folder_without_weights_or_tokenizer_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = looked_at(tmp_path)
    assert list(errors(found)) == ["*.safetensors"] and not found.has_tokenizer


def test_a_truncated_gguf_is_found_by_its_index(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("t", np.zeros(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert errors(looked_at(path)) == {}
    cut_off(path, 100)
    assert "tensor t lies beyond its end" in errors(looked_at(path))["x.gguf"]
    path.write_bytes(b"GGML" + bytes(60))
    assert "does not begin with GGUF" in errors(looked_at(path))["x.gguf"]


def cached(hub: Path, content: bytes, name: str) -> None:
    """A model in the hub's cache, whose weights are a link to a file of that name."""
    repo = hub / "models--a--b"
    snapshot = repo / "snapshots" / ("0" * 40)
    write_model(snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "blobs").mkdir()
    (repo / "blobs" / name).write_bytes(content)
    (snapshot / "1.safetensors").unlink()
    (snapshot / "1.safetensors").symlink_to(Path("../../blobs") / name)


def test_the_hubs_hash_tells_a_changed_file_from_a_right_one(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "file", "a", "b")
    right = (tmp_path / "file").read_bytes()
    changed = right[:-1] + b"\1"
    name = hashlib.sha256(right).hexdigest()
    for content, state in ((right, "right"), (changed, "wrong")):
        cached(tmp_path / state, content, name)
        hashes = {one.name: one.hash_is for one in looked_at("a/b", tmp_path / state).files}
        assert hashes == {"config.json": "", INDEX: "", "1.safetensors": state, "2.safetensors": ""}


def test_a_large_file_is_hashed_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.manta.doctor.model_files.HASHED_BYTES", 10)
    write_safetensors(tmp_path / "file", "a", "b")
    content = (tmp_path / "file").read_bytes()
    cached(tmp_path / "hub", content, hashlib.sha256(content).hexdigest())
    states = [looked_at("a/b", tmp_path / "hub", verify).files[2].hash_is for verify in (False, True)]
    assert states == ["skipped", "right"]


def test_a_model_of_the_hub_that_is_not_here_is_not_downloaded(tmp_path: Path) -> None:
    found = looked_at("a/b", tmp_path)
    assert found.is_in_hub and "not in the hub's cache" in found.error and list(tmp_path.iterdir()) == []


def test_a_name_that_is_none_is_no_model_of_the_hub() -> None:
    found = looked_at("./nothing")
    assert not found.is_in_hub and "no such file or folder" in found.error
