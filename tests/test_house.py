"""The house: which floor may know which, which doors open without torch, what is public."""

import ast
import graphlib
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme import text

ROOT = Path(__file__).parent.parent
FLOORS = ("configs", "kernels", "engine", "cluster", "serve_app")
MAY_IMPORT = {
    "configs": {"configs"},
    "kernels": {"kernels"},
    "engine": {"engine", "kernels", "configs"},
    "cluster": {"cluster", "engine", "configs"},
    "serve_app": {"serve_app", "engine", "configs"},
}
# the rooms of serve_app, each over those that it may know
ROOMS = {
    "request": set[str](),
    "workers": set[str](),
    "tenants": set[str](),
    "text": set[str](),
    "transport": {"text"},
    "api": {"transport"},
    "grammar": {"request", "text"},
    "tools": {"request", "text", "grammar"},
    "model": {"request", "text", "tools"},
    "generation": {"text", "grammar", "tools"},
    "preparation": {"request", "workers", "tenants", "text", "grammar", "tools", "model", "generation"},
    "metrics": {"generation"},
    "result_cache": {"generation", "preparation"},
    "pipeline": {
        "workers",
        "tenants",
        "text",
        "transport",
        "api",
        "model",
        "generation",
        "preparation",
        "metrics",
        "result_cache",
    },
    "openai": {"request", "text", "transport", "api", "generation", "pipeline"},
    "chat": {
        "request",
        "text",
        "transport",
        "api",
        "tools",
        "model",
        "generation",
        "preparation",
        "pipeline",
        "openai",
    },
    "completion": {"request", "text", "transport", "api", "model", "generation", "preparation", "pipeline", "openai"},
    "server": {"request", "api", "model", "preparation", "metrics", "pipeline", "chat"},
}
# the packages of engine/, each over those that it may know
ENGINE_ROOMS = {
    "device": set[str](),
    "checkpoint": set[str](),
    "structured_output": set[str](),
    "cache": {"checkpoint", "device"},
    "scheduling": {"cache", "structured_output"},
    "parallel": {"cache", "checkpoint", "scheduling"},
    "sampling": {"device", "scheduling", "structured_output"},
    "model": {"cache", "checkpoint", "device", "parallel", "scheduling"},
    "execution": {
        "cache",
        "checkpoint",
        "device",
        "model",
        "parallel",
        "sampling",
        "scheduling",
        "structured_output",
    },
    "runtime": {"parallel"},
}
FORBIDDEN = {
    "configs": {"torch", "ray", "fastapi", "transformers"},
    "kernels": {"ray", "fastapi", "transformers"},
    "engine": {"ray", "fastapi", "pydantic", "starlette"},
    "cluster": {"torch", "fastapi", "pydantic", "starlette", "transformers", "pickle", "cloudpickle"},
    "serve_app": {"torch", "ray"},
}


def modules_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def imports_of(path: Path) -> Iterator[str]:
    """The top-level package of every import in a file."""
    return (module.partition(".")[0] for module in modules_of(path))


def rooms_of(path: Path, floor: str = "serve_app") -> Iterator[str]:
    """Which of a floor's rooms, or of the files beside them, a file imports."""
    return (module.split(".")[1] for module in modules_of(path) if module.startswith(f"{floor}."))


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_go_down_only(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    for path in files:
        if path == ROOT / "serve_app" / "main.py":
            continue  # the composition root sees all floors
        found = set(imports_of(path))
        assert found & set(FLOORS) <= MAY_IMPORT[floor], path
        assert not found & FORBIDDEN[floor], path


def test_no_file_imports_itself_around_a_corner() -> None:
    """Also not within a function, nor for types alone."""
    files = {path: path.relative_to(ROOT).with_suffix("") for floor in FLOORS for path in (ROOT / floor).rglob("*.py")}
    names = {".".join(parts.parts).removesuffix(".__init__"): path for path, parts in files.items()}
    below = {name: sorted({*modules_of(path)} & names.keys() - {name}) for name, path in names.items()}
    assert sum(map(len, below.values())) > 500
    try:
        tuple(graphlib.TopologicalSorter(below).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_file_of_serve_app_is_in_a_room() -> None:
    listed = {path.name for path in (ROOT / "serve_app").iterdir() if path.name != "__pycache__"}
    assert listed == {*ROOMS, "README.md", "__init__.py", "app.py", "main.py", "py.typed"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_rooms_below(room: str) -> None:
    order = list(ROOMS)
    assert all(order.index(other) < order.index(room) for other in ROOMS[room])
    found = {other for path in (ROOT / "serve_app" / room).rglob("*.py") for other in rooms_of(path)}
    assert found - {room} == ROOMS[room]


@pytest.mark.parametrize("room", ENGINE_ROOMS)
def test_a_room_of_the_engine_knows_only_rooms_below(room: str) -> None:
    order = list(ENGINE_ROOMS)
    assert all(order.index(other) < order.index(room) for other in ENGINE_ROOMS[room])
    folder = ROOT / "engine" / room
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    found = {other for path in folder.rglob("*.py") for other in rooms_of(path, "engine")}
    assert found & set(ENGINE_ROOMS) - {room} == ENGINE_ROOMS[room]


def test_nothing_but_the_engine_and_its_types_lies_flat_in_engine() -> None:
    listed = {path.name for path in (ROOT / "engine").iterdir()} - {"__pycache__", "README.md", "py.typed"}
    assert listed == {*ENGINE_ROOMS, "__init__.py", "engine.py", "errors.py", "types.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_nothing_else(room: str) -> None:
    tree = ast.parse((ROOT / "serve_app" / room / "__init__.py").read_text())
    assert ast.get_docstring(tree) and len(tree.body) == 1


@pytest.mark.parametrize(
    "door",
    [
        "engine.engine",
        "engine.runtime.async_engine",
        "engine.scheduling.scheduler",
        "engine.scheduling.scheduler_output",
        "engine.cache.block_pool",
        "engine.cache.prefix_cache",
        "engine.checkpoint.source",
        "cluster.deploy",
        "serve_app.main",
        "serve_app.app",
        "serve_app.model.text_model",
    ],
)
def test_the_door_opens_without_torch(door: str) -> None:
    code = f"import sys, {door}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"{door} loads torch"


def test_top_level_is_what_the_design_says() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.partition("/")[0] for line in listed.splitlines() if not line.startswith(".")}
    allowed = {*FLOORS, "tests", "scripts", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
    assert top <= allowed


def test_kernels_is_no_package_that_transformers_would_take_for_its_own() -> None:
    tree = ast.parse((ROOT / "kernels" / "__init__.py").read_text())
    assert not any(isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign)) for node in ast.walk(tree))


@pytest.mark.parametrize("floor", FLOORS)
def test_what_is_public_exists(floor: str) -> None:
    package = importlib.import_module(floor)
    names = [
        name
        for _, name, _ in pkgutil.walk_packages(package.__path__, floor + ".")
        if not name.endswith(("triton", ".main"))
    ]
    for name in names:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            assert hasattr(module, public), f"{name}.{public}"


def test_files_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"`((?:tests|configs|scripts|kernels)/[\w/]+\.\w+)`", text()))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
