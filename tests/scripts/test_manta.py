"""The command `manta`: what it says of itself, and of arguments that are wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.manta.main import COMMANDS, main
from tests.readme import ROOT


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """What it writes to stderr before it ends with a code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    return capsys.readouterr().err


def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom scripts.manta.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print({'torch', 'ray', 'transformers', 'numpy', 'fastapi', 'aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "set()"
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_loads_nothing_heavy_for_it(command: str) -> None:
    code = (
        "import sys\nfrom scripts.manta.main import main\n"
        f"try:\n    main(['{command}', '--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print({'torch', 'ray', 'transformers', 'fastapi', 'aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
    assert done.stdout.startswith(f"usage: manta {command}") and len(done.stdout.splitlines()) > 8
    assert max(map(len, done.stdout.splitlines())) < 140


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serv"], "command: there is no 'serv'; did you mean serve? (known: serve, chat, pull, bench, config, env, "),
        (["--verbos"], "unrecognized arguments: --verbos"),
        (["serve", "--port", "eighty"], "argument --port: must be a port from 1 to 65535, got 'eighty'"),
        (["serve", "--num-replica", "2"], "argument --num-replica: no such option; did you mean --num-replicas?"),
        (["serve", "--tp-size", "2"], "argument --tp-size: no such option; here it is models[].tensor_parallel_size"),
        (["serve", "--num-replicas", "0"], "argument --num-replicas: must be an integer of at least 1, got '0'"),
        (
            ["serve", "--placement-group-strategy", "NEAR"],
            "argument --placement-group-strategy: must be PACK, SPREAD, STRICT_PACK, got 'NEAR'",
        ),
        (["serve", "a/b", "c/d"], "argument c/d: one too many (see manta serve --help)"),
        (["serve", "not-there.yaml"], "CONFIG: not-there.yaml: No such file or directory"),
        (["config", "num_replicaz"], "argument KEY: there is no config key 'num_replicaz'; did you mean num_replicas?"),
        (["config", "pyproject.yaml"], "CONFIG: pyproject.yaml: No such file"),
        (["bench", "--concurrency", "0"], "argument --concurrency: must be an integer of at least 1, got '0'"),
        (["doctor", "--front", "nginx"], "argument --front: invalid choice: 'nginx'"),
        (["env", "--front", "nginx"], "argument --front: invalid choice: 'nginx'"),
    ],
)
def test_what_is_wrong_is_said_of_the_argument(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in said(capsys, *arguments)


def test_a_model_that_is_not_there_is_said_with_what_a_source_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        SystemExit, match=r"manta pull: MODEL: \./nothing: no such file or folder; a source is a hub id"
    ):
        main(["pull", "./nothing"])


def test_what_is_on_this_machine_is_not_pulled(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    main(["pull", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_without_a_command_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert "usage: manta COMMAND" in said(capsys)
