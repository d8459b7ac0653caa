"""The architecture: which package may import which, what loads without torch, what is public."""

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
PACKAGES = ("configs", "kernels", "engine", "cluster", "serve_app")
MAY_IMPORT = {
    "configs": {"configs"},
    "kernels": {"kernels"},
    "engine": {"engine", "kernels", "configs"},
    "cluster": {"cluster", "engine", "configs"},
    "serve_app": {"serve_app", "engine", "configs"},
}
# the packages of serve_app, each over those that it may know
SERVE_APP_PACKAGES = {
    "request": set[str](),
    "workers": set[str](),
    "tenants": set[str](),
    "state": set[str](),
    "text": set[str](),
    "transport": {"text"},
    "api": {"transport"},
    "grammar": {"request", "text"},
    "tools": {"request", "text", "grammar"},
    "model": {"request", "text", "tools"},
    "generation": {"text", "grammar", "tools"},
    "preparation": {"request", "workers", "tenants", "text", "grammar", "tools", "model", "generation"},
    "resumption": {"workers", "tenants", "state", "transport", "preparation"},
    "logs": {"generation"},
    "tracing": {"logs"},
    "metrics": {"generation", "logs"},
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
        "resumption",
        "logs",
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
        "resumption",
        "pipeline",
        "openai",
    },
    "completion": {
        "request",
        "text",
        "transport",
        "api",
        "model",
        "generation",
        "preparation",
        "resumption",
        "pipeline",
        "openai",
    },
    "messages": {
        "request",
        "tenants",
        "text",
        "transport",
        "api",
        "tools",
        "model",
        "generation",
        "preparation",
        "resumption",
        "pipeline",
    },
    "responses": {
        "request",
        "tenants",
        "state",
        "text",
        "transport",
        "api",
        "tools",
        "model",
        "generation",
        "preparation",
        "resumption",
        "logs",
        "pipeline",
        "openai",
    },
    "server": {
        "request",
        "api",
        "model",
        "preparation",
        "logs",
        "tracing",
        "metrics",
        "pipeline",
        "chat",
        "messages",
    },
}
# the packages of engine/, each over those that it may know
ENGINE_PACKAGES = {
    "device": set[str](),
    "arch": set[str](),
    "checkpoint": {"arch"},
    "structured_output": set[str](),
    "cache": {"arch", "checkpoint", "device"},
    "scheduling": {"cache", "structured_output"},
    "parallel": {"cache", "checkpoint", "scheduling"},
    "sampling": {"device", "scheduling", "structured_output"},
    "model": {"arch", "cache", "checkpoint", "device", "parallel", "scheduling"},
    "execution": {
        "arch",
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


def packages_of(path: Path, package: str = "serve_app") -> Iterator[str]:
    """Which of a package's packages, or of the files beside them, a file imports."""
    return (module.split(".")[1] for module in modules_of(path) if module.startswith(f"{package}."))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_down_only(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        if path == ROOT / "serve_app" / "main.py":
            continue  # the composition root sees all layers
        found = set(imports_of(path))
        assert found & set(PACKAGES) <= MAY_IMPORT[package], path
        assert not found & FORBIDDEN[package], path


def test_no_file_imports_itself_through_others() -> None:
    """Also not within a function, nor for types alone."""
    files = {
        path: path.relative_to(ROOT).with_suffix("") for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }
    names = {".".join(parts.parts).removesuffix(".__init__"): path for path, parts in files.items()}
    below = {name: sorted({*modules_of(path)} & names.keys() - {name}) for name, path in names.items()}
    assert sum(map(len, below.values())) > 500
    try:
        tuple(graphlib.TopologicalSorter(below).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_file_of_serve_app_is_in_a_package() -> None:
    listed = {path.name for path in (ROOT / "serve_app").iterdir() if path.name != "__pycache__"}
    assert listed == {*SERVE_APP_PACKAGES, "README.md", "__init__.py", "app.py", "main.py", "py.typed"}


@pytest.mark.parametrize("package", SERVE_APP_PACKAGES)
def test_a_package_knows_only_rooms_below(package: str) -> None:
    order = list(SERVE_APP_PACKAGES)
    assert all(order.index(other) < order.index(package) for other in SERVE_APP_PACKAGES[package])
    found = {other for path in (ROOT / "serve_app" / package).rglob("*.py") for other in packages_of(path)}
    assert found - {package} == SERVE_APP_PACKAGES[package]


@pytest.mark.parametrize("package", ENGINE_PACKAGES)
def test_a_package_of_the_engine_knows_only_rooms_below(package: str) -> None:
    order = list(ENGINE_PACKAGES)
    assert all(order.index(other) < order.index(package) for other in ENGINE_PACKAGES[package])
    folder = ROOT / "engine" / package
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    found = {other for path in folder.rglob("*.py") for other in packages_of(path, "engine")}
    assert found & set(ENGINE_PACKAGES) - {package} == ENGINE_PACKAGES[package]


def test_nothing_but_the_engine_and_its_types_lies_flat_in_engine() -> None:
    listed = {path.name for path in (ROOT / "engine").iterdir()} - {"__pycache__", "README.md", "py.typed"}
    assert listed == {*ENGINE_PACKAGES, "__init__.py", "engine.py", "errors.py", "types.py"}


@pytest.mark.parametrize("package", SERVE_APP_PACKAGES)
def test_a_package_says_what_it_is_for_and_nothing_else(package: str) -> None:
    tree = ast.parse((ROOT / "serve_app" / package / "__init__.py").read_text())
    assert ast.get_docstring(tree) and len(tree.body) == 1


@pytest.mark.parametrize(
    "module",
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
def test_it_loads_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"{module} loads torch"


Function = ast.FunctionDef | ast.AsyncFunctionDef
MOST_ARGUMENTS = 6


def public_functions(node: ast.Module | ast.ClassDef) -> Iterator[Function]:
    """Functions, and methods and constructors of classes, that others may call."""
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)
        elif isinstance(child, Function) and (
            not child.name.startswith("_") or child.name in ("__new__", "__init__", "__call__")
        ):
            yield child


def is_triton_kernel(function: Function) -> bool:
    return any(ast.unparse(decorator).startswith("triton.") for decorator in function.decorator_list)


@pytest.mark.parametrize("package", [*PACKAGES, "scripts"])
def test_a_public_function_takes_at_most_six_arguments(package: str) -> None:
    """More of them ask for a value. Triton kernels are excepted, which take pointers and numbers alone; what ctypes
    calls and the fields of values are no functions here.
    """
    functions = [
        (f"{path.relative_to(ROOT)}:{function.lineno} {function.name}", function)
        for path in sorted((ROOT / package).rglob("*.py"))
        for function in public_functions(ast.parse(path.read_text()))
        if not is_triton_kernel(function)
    ]
    assert functions
    taken = {
        name: [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        for name, function in functions
    }
    wide = {name: [one for one in arguments if one not in ("self", "cls")] for name, arguments in taken.items()}
    assert {name: arguments for name, arguments in wide.items() if len(arguments) > MOST_ARGUMENTS} == {}


def test_top_level_is_what_the_design_says() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.partition("/")[0] for line in listed.splitlines() if not line.startswith(".")}
    allowed = {*PACKAGES, "tests", "scripts", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
    assert top <= allowed


def test_kernels_is_no_package_that_transformers_would_take_for_its_own() -> None:
    tree = ast.parse((ROOT / "kernels" / "__init__.py").read_text())
    assert not any(isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign)) for node in ast.walk(tree))


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_public_exists(package: str) -> None:
    imported = importlib.import_module(package)
    names = [
        name
        for _, name, _ in pkgutil.walk_packages(imported.__path__, package + ".")
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
