import subprocess
from collections import Counter
from pathlib import PurePath

import pytest

from scripts.sizes import line_counts, package_of, table


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("engine/engine.py", "engine"),
        ("engine/structured_output/grammar.py", "engine/structured_output"),
        ("scripts/bench/gpu/check.py", "scripts/bench"),
        ("tests/engine/structured_output/test_grammar.py", "tests/engine/structured_output"),
        ("setup.py", "."),
    ],
)
def test_a_file_belongs_to_the_folder_of_its_package(path: str, package: str) -> None:
    assert package_of(PurePath(path)) == package


def test_lines_are_counted_as_committed_without_blank_ones(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)

    git("init", "-q")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "a.py").write_text("x = 1\n\n   \ny = 2\n")
    (tmp_path / "engine" / "notes.md").write_text("no code\n")
    git("add", ".")
    git("commit", "-qm", "one")
    (tmp_path / "engine" / "a:b.py").write_text("z = 3\n")
    git("add", ".")
    git("commit", "-qm", "two")
    (tmp_path / "engine" / "a.py").write_text("")
    assert line_counts("HEAD") == Counter({"engine": 3})
    assert line_counts("HEAD~1") == Counter({"engine": 2})
    with pytest.raises(subprocess.CalledProcessError):
        line_counts("nothing")


def test_what_is_gone_is_in_the_table_too() -> None:
    lines = table(Counter({"engine": 5}), Counter({"engine": 3, "cluster": 4}))
    assert [line.split() for line in lines[1:]] == [["engine", "5", "+2"], ["cluster", "0", "-4"], ["all", "5", "-2"]]
