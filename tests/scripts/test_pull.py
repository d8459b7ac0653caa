"""`manta pull`, from a hub on loopback."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.checkpoint.fake_hub import FakeHub, environment_of, gguf
from tests.readme import ROOT

ONE, TWO = b"w" * 3_000_000, bytes(range(250)) * 40_000


def pull(hub: FakeHub, home: Path, model: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scripts.manta", "pull", model]
    return subprocess.run(command, cwd=ROOT, env=environment_of(hub, home), capture_output=True, text=True)


def interrupt(hub: FakeHub, home: Path, model: str, least: int) -> int:
    """Kills a download once so many bytes of a file are there. Returns how many."""
    command = [sys.executable, "-m", "scripts.manta", "pull", model]
    process = subprocess.Popen(command, cwd=ROOT, env=environment_of(hub, home), stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 30
    try:
        while max((path.stat().st_size for path in home.rglob("*.manta.incomplete")), default=0) < least:
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    (part,) = home.rglob("*.manta.incomplete")
    return part.stat().st_size


def test_an_interrupted_download_goes_on_where_it_was(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "one.safetensors": ONE, "two.safetensors": TWO, "onnx/three.safetensors": b"3"}
    with FakeHub({"org/name": files}) as hub:
        hub.stall_after["two.safetensors"] = 6_000_000
        num_there = interrupt(hub, tmp_path, "org/name", 5_000_000)
        hub.stall_after.clear()
        hub.sent.clear()
        done = pull(hub, tmp_path, "org/name")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: data for name, data in files.items() if "/" not in name
    }
    assert hub.sent == {"config.json": 2, "two.safetensors": len(TWO) - num_there}
    assert "10.0M/10.0M" in done.stderr and "13.0 MB are there" in done.stderr
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_gguf_file_goes_on_too(tmp_path: Path) -> None:
    data = gguf(TWO)
    with FakeHub({"org/name-GGUF": {"m-Q4_0.gguf": data, "m-Q8_0.gguf": data + b"8"}}) as hub:
        hub.stall_after["m-Q4_0.gguf"] = 6_000_000
        num_there = interrupt(hub, tmp_path, "org/name-GGUF:Q4_0", 5_000_000)
        hub.stall_after.clear()
        hub.sent.clear()
        done = pull(hub, tmp_path, "org/name-GGUF:Q4_0")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == data
    assert hub.sent == {"m-Q4_0.gguf": len(data) - num_there}


def downloaded_to_serve(hub: FakeHub, home: Path, import_path: str) -> None:
    application = {"import_path": import_path, "args": {"models": [{"model": "org/name"}]}}
    code = f"from scripts.manta.server import download_models; download_models({application!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment_of(hub, home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_serve_resumes_a_download_too(tmp_path: Path) -> None:
    with FakeHub({"org/name": {"config.json": b"{}", "one.safetensors": TWO}}) as hub:
        hub.stall_after["one.safetensors"] = 6_000_000
        num_there = interrupt(hub, tmp_path, "org/name", 5_000_000)
        hub.stall_after.clear()
        hub.sent.clear()
        downloaded_to_serve(hub, tmp_path, "serve_app.main:build")
    assert hub.sent == {"config.json": 2, "one.safetensors": len(TWO) - num_there}


def test_serve_downloads_nothing_for_another_application(tmp_path: Path) -> None:
    with FakeHub({"org/name": {"config.json": b"{}"}}) as hub:
        downloaded_to_serve(hub, tmp_path, "other.app:build")
    assert not hub.sent


def test_a_part_that_is_of_something_else_is_brought_anew(tmp_path: Path) -> None:
    with FakeHub({"org/name": {"config.json": b"{}", "one.safetensors": ONE}}, sha256=True) as hub:
        hub.stall_after["one.safetensors"] = 2_000_000
        interrupt(hub, tmp_path, "org/name", 1_000_000)
        (part,) = tmp_path.rglob("*.manta.incomplete")
        part.write_bytes(b"another" * 100_000)
        hub.stall_after.clear()
        done = pull(hub, tmp_path, "org/name")
    assert done.returncode == 0, done.stderr
    assert (Path(done.stdout.strip()) / "one.safetensors").read_bytes() == ONE


@pytest.mark.parametrize("model", ["org/other", "org/name:Q4_0"])
def test_what_the_hub_does_not_have_is_said(tmp_path: Path, model: str) -> None:
    with FakeHub({"org/name": {"config.json": b"{}"}}) as hub:
        done = pull(hub, tmp_path, model)
    assert done.returncode == 1 and done.stderr.startswith(f"manta pull: MODEL: {model.partition(':')[0]}: ")
    assert (
        "no such model" if model == "org/other" else "no .gguf file ends with 'Q4_0'; there are: none"
    ) in done.stderr
