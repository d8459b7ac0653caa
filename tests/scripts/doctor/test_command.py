"""`manta doctor` as a program, on this machine: whole, and broken in ways that are cheap to make."""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.manta.doctor.checks import CHECKS
from tests.readme import ROOT
from tests.scripts.doctor.test_model_files import cut_off, write_model


class Doctor:
    """Runs the command in a home of its own, where no cluster is."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *arguments: str, before: Callable[[], None] | None = None, **environment: str) -> dict[str, Any]:
        """The findings by name, and under "status" the exit status."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "MANTA"))}
        kept |= {"HOME": str(self.home), "RAY_TMPDIR": "/tmp/none", **environment}
        command = [sys.executable, "-m", "scripts.manta", "doctor", *arguments, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, preexec_fn=before)
        assert not done.stderr
        answer = json.loads(done.stdout)
        assert done.returncode == (1 if answer["num_faults"] else 0)
        return {one["check"]: one for one in answer["findings"]} | {"status": done.returncode}


@pytest.fixture
def doctor(tmp_path: Path) -> Iterator[Doctor]:
    yield Doctor(tmp_path)


def test_this_machine_has_a_finding_of_each_check(doctor: Doctor) -> None:
    found = doctor.run()
    assert len(found) == len(CHECKS) + 1
    assert found["python"]["level"] == found["packages"]["level"] == "ok"
    assert found["nodes"]["found"].startswith("no running cluster")


def test_a_config_brings_its_models_and_an_unknown_key_is_a_fault(doctor: Doctor, tmp_path: Path) -> None:
    whole = doctor.run("configs/two_models.yaml")
    assert whole["config"]["level"] == "ok" and sum(name.startswith("model ") for name in whole) == 2
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((ROOT / "configs" / "quickstart.yaml").read_text().replace("drain_s", "drane_s"))
    found = doctor.run(str(wrong))["config"]
    assert found["level"] == "fault" and "ingress.drane_s: no such key; did you mean drain_s?" in found["found"]


@pytest.mark.parametrize("content", ["applications: 3", "applications: [4]", "- 1", "applications: [{args: 1}]", "{"])
def test_what_is_no_config_is_a_fault_and_not_a_traceback(content: str, doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(content)
    assert doctor.run(str(tmp_path / "x.yaml"))["config"]["level"] == "fault"


def test_a_machine_broken_in_four_ways_is_found_so(doctor: Doctor, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    cut_off(tmp_path / "model" / "1.safetensors", 1)
    (tmp_path / "token").write_text("0")
    (tmp_path / "token").chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = doctor.run(
            str(tmp_path / "model"),
            f"--port={listener.getsockname()[1]}",
            before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
            RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"),
            RAY_SERVE_ENABLE_HA_PROXY="1",
            MANTA_HAPROXY=str(tmp_path / "no-haproxy"),
        )
    faults = {name for name, one in found.items() if name != "status" and one["level"] == "fault"}
    assert faults >= {f"model {tmp_path / 'model'}", "token", "open files", "haproxy"}
    assert "ports" in faults or not Path("/proc/net/tcp").exists()
    assert found["status"] == 1


def test_gpus_that_torch_does_not_see_are_found(doctor: Doctor, tmp_path: Path) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nfor _ in 1 2 3 4 5 6 7 8 9; do echo 'NVIDIA X, 81559 MiB, 550.54'; done\n")
    driver.chmod(0o755)
    found = doctor.run(PATH=f"{tmp_path}:{os.environ['PATH']}")["gpu"]
    assert found["found"].startswith("9 listed by the driver, ") and "seen by torch" in found["found"]
    assert found["level"] in ("warning", "fault") and found["advice"]
