"""Lines of code per package, and the difference to another commit: python -m scripts.sizes [COMMIT]."""

import argparse
import subprocess
from collections import Counter
from pathlib import PurePath

__all__ = ["line_counts", "package_of", "table"]

CODE = (".py", ".c", ".h", ".html")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.sizes", description=__doc__)
    parser.add_argument("commit", nargs="?", default="HEAD~1", help="what to compare with (default: HEAD~1)")
    options = parser.parse_args()
    print("\n".join(table(line_counts("HEAD"), line_counts(options.commit))))


def table(now: Counter[str], then: Counter[str]) -> list[str]:
    """One line per package, the largest first, and the total."""
    lines = [f"{'package':<28}{'lines':>8}{'change':>9}"]
    for package in sorted({*now, *then}, key=lambda package: (-now[package], package)):
        lines.append(f"{package:<28}{now[package]:>8}{now[package] - then[package]:>+9}")
    lines.append(f"{'all':<28}{now.total():>8}{now.total() - then.total():>+9}")
    return lines


def line_counts(commit: str) -> Counter[str]:
    """The non-blank lines of each package in a commit. Raises CalledProcessError if there is no such commit."""
    # "commit:path:number of lines"
    found = _git("grep", "-c", "-I", "-e", "[^[:space:]]", commit, "--", *(f"*{suffix}" for suffix in CODE))
    counts: Counter[str] = Counter()
    for line in found.splitlines():
        path, _, count = line.removeprefix(f"{commit}:").rpartition(":")
        counts[package_of(PurePath(path))] += int(count)
    return counts


def package_of(path: PurePath) -> str:
    """The sub-package of a file, or its package; of tests too."""
    parts = path.parts[:-1]
    depth = 3 if parts[:1] == ("tests",) else 2
    return "/".join(parts[:depth]) or "."


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
