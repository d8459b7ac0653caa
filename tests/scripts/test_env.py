"""`manta env`, and the one list of what Ray reads from its environment."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.native.instruction_set import INSTRUCTION_SETS
from scripts.manta.machine import facts, instruction_sets
from scripts.manta.ray_environment import cluster_variables, machine_variables, values_of
from tests.readme import ROOT, text


def evaluated(script: str, tmp_path: Path, **environment: str) -> dict[str, str]:
    """The environment of a shell that has run it."""
    shell = ["bash", "-euo", "pipefail", "-c", f"{script}\nenv"]
    kept = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environment}
    done = subprocess.run(shell, env=kept, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def printed(tmp_path: Path, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "scripts.manta", "env", *arguments]
    kept = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=True).stdout


def test_a_shell_takes_what_it_prints(tmp_path: Path) -> None:
    script = printed(tmp_path, "--front", "haproxy")
    found = evaluated(script, tmp_path)
    assert {one.name for one in cluster_variables("haproxy")} <= found.keys()
    assert found["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure empty-response"
    assert Path(found["RAY_SERVE_HAPROXY_BINARY_PATH"]) == ROOT / "scripts" / "haproxy"
    folder = Path(found["RAY_TMPDIR"])
    assert folder == tmp_path / ".ray" / "tmp" and folder.stat().st_mode & 0o777 == 0o700
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in evaluated(printed(tmp_path, "--front", "proxy"), tmp_path)


def test_what_is_set_already_is_kept(tmp_path: Path) -> None:
    script = printed(tmp_path, RAY_AUTH_MODE="disabled", GOMP_SPINCOUNT="it's mine")
    found = evaluated(script, tmp_path)
    assert (found["RAY_AUTH_MODE"], found["GOMP_SPINCOUNT"]) == ("disabled", "it's mine")


def test_no_name_is_twice_in_a_list_and_none_stands_elsewhere() -> None:
    names = set()
    for variables in (machine_variables("haproxy", Path("/tmp/x")), cluster_variables("haproxy")):
        assert len(values_of(variables)) == len(variables)
        names |= {one.name for one in variables}
    once = {name for name in names if name.startswith(("RAY_SERVE_", "GOMP_"))}
    elsewhere = set(re.findall(r"\b(?:RAY_SERVE|GOMP)_\w+(?==)", text()))
    assert len(once) > 15 and elsewhere & once == set()


def test_facts_are_of_this_machine() -> None:
    told = dict(facts())
    assert list(told)[:5] == ["manta", "CPU", "instruction sets", "CPU kernels", "C compiler"]
    assert told["CPU kernels"].split()[0] in INSTRUCTION_SETS
    assert re.search(r"\btorch \d+\.\d+", told["versions"]) and re.search(r", \d+ cores", told["CPU"])
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    assert all(re.search(rf"\b{name}\b", flags) for name in instruction_sets())


@pytest.mark.parametrize("front", ["haproxy", "proxy"])
def test_every_variable_says_why(front: str) -> None:
    assert all(one.why for one in cluster_variables(front))  # type: ignore[arg-type]
