"""The lock files fit pyproject.toml, and a pip that is sent something else takes none of it."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts import environment
from tests.readme import ROOT

LOCKS = sorted(path.name for path in (ROOT / "scripts").glob("*.lock"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def entries(name: str) -> list[str]:
    """Each requirement of a lock file with its options, in a line."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "scripts" / name).read_text())
    return text.replace("\\\n", " ").splitlines()


def fitting(texts: Iterable[str]) -> list[Requirement]:
    """Those that count on this platform."""
    found = [Requirement(text.split(" --hash")[0]) for text in texts]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def versions(name: str) -> dict[str, str]:
    return {one.name: str(one.specifier).removeprefix("==") for one in fitting(entries(name))}


def extra(name: str) -> list[str]:
    """What an extra asks for, with what other extras of ours that it names ask for."""
    found = []
    for text in PROJECT["project"]["optional-dependencies"][name]:
        one = Requirement(text)
        ours = one.name == PROJECT["project"]["name"]
        found += [inner for other in one.extras for inner in extra(other)] if ours else [text]
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_one_version_and_hashes_and_names_no_registry(name: str) -> None:
    for entry in entries(name):
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( ; .+?)?(\s+--hash=sha256:[0-9a-f]{64})+", entry), entry
    assert len(versions(name)) == len(fitting(entries(name))) > 0


@pytest.mark.parametrize(
    ("wanted", "locks"),
    [
        (PROJECT["project"]["dependencies"], ["requirements.lock", "requirements-cuda.lock"]),
        (extra("test"), ["requirements.lock", "requirements-test.lock"]),
        (PROJECT["build-system"]["requires"], ["requirements.lock"]),
        ([environment.TORCH], ["requirements-cuda.lock"]),
        (environment.WEIGHTS, ["requirements-weights.lock"]),
    ],
)
def test_the_versions_are_those_that_are_asked_for(wanted: list[str], locks: list[str]) -> None:
    found = {name: version for lock in locks for name, version in versions(lock).items()}
    wrong = [one for one in fitting(wanted) if not one.specifier.contains(found.get(one.name, "0"))]
    assert wrong == [], "run scripts/lock"


def test_a_package_is_in_one_lock_file_only() -> None:
    names = [name for lock in LOCKS for name in versions(lock)]
    assert len(names) == len(set(names))


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip finds."""
    (tmp_path / "manta_none").mkdir()
    (tmp_path / "manta_none" / "__init__.py").touch()
    project = '[project]\nname = "manta-none"\nversion = "1"\n[build-system]\nrequires = ["setuptools"]\n'
    project += 'build-backend = "setuptools.build_meta"\n[tool.setuptools]\npackages = ["manta_none"]\n'
    (tmp_path / "pyproject.toml").write_text(project)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", tmp_path, tmp_path], check=True)
    for setting, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{setting}", value)
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "installed"))
    monkeypatch.setattr(environment, "LOCKS", tmp_path)
    for name in ("", "-cuda", "-weights"):
        (tmp_path / f"requirements{name}.lock").touch()
    return next(tmp_path.glob("*.whl"))


def test_what_has_another_hash_is_not_installed(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text(f"manta-none==1 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(SystemExit, match=r"manta.none(.|\n)*What was sent is not what scripts/\*\.lock name"):
        environment._install_locked(Path(sys.executable), "")
    assert not (tmp_path / "installed").exists()


def test_a_platform_that_the_lock_does_not_fit_takes_what_the_project_allows(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requirements.lock").write_text(f"manta-none==2 --hash=sha256:{'0' * 64}\n")
    assert not environment._install_locked(Path(sys.executable), "")
    said = capsys.readouterr().err
    assert "the lock files do not fit here" in said and "manta-none==2" in said
    assert not (tmp_path / "installed").exists()


def test_a_release_is_pinned_only_with_the_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    pinned = re.findall(r'(?m)^ +"([^";]+==[^"]+)",(.*)$', text)
    assert {Requirement(name).name for name, _ in pinned} >= {"torch", "ray"}
    assert [name for name, comment in pinned if not re.match(r" +# \w", comment)] == []
