"""`manta pull`, from a hub on loopback."""

import subprocess
import sys
import time
from pathlib import Path

from tests.engine.checkpoint.fake_hub import FakeHub, environment_of
from tests.readme import ROOT


def test_an_interrupted_pull_keeps_the_files_that_it_has(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "one.safetensors": b"w" * 3_000_000, "two.safetensors": b"v" * 2_000_000}
    command = [sys.executable, "-m", "scripts.manta", "pull", "org/name"]
    with FakeHub({"org/name": files}) as hub:
        hub.stall_after["two.safetensors"] = 1_000_000
        environment = {**environment_of(hub, tmp_path), "TQDM_POSITION": "-1"}  # bars without a terminal too
        first = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        try:
            wait_for_file(tmp_path, "one.safetensors")
        finally:
            first.kill()
            first.wait()
        hub.stall_after.clear()
        hub.sent.clear()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert hub.sent["two.safetensors"] == 2_000_000 and hub.sent["one.safetensors"] == 0
    assert "2.00MB / 2.00MB" in done.stderr  # progress in bytes
    assert "5.0 MB are there" in done.stderr


def wait_for_file(home: Path, name: str) -> None:
    deadline_s = time.monotonic() + 30
    while not list(home.rglob(name)):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
