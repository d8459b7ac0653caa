"""Lines of code per package, and what has changed since another commit: python -m scripts.sizes [COMMIT]."""

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
    """A line per package, the largest first, and one for all."""
    lines = [f"{'package':<28}{'lines':>8}{'change':>9}"]
    for package in sorted({*now, *then}, key=lambda package: (-now[package], package)):
        lines.append(f"{package:<28}{now[package]:>8}{now[package] - then[package]:>+9}")
    lines.append(f"{'all':<28}{now.total():>8}{now.total() - then.total():>+9}")
    return lines


def line_counts(commit: str) -> Counter[str]:
    """Lines of each package that are not blank, as committed. Raises CalledProcessError if there is no such commit."""
    # "commit:path:number of lines"
    found = _git("grep", "-c", "-I", "-e", "[^[:space:]]", commit, "--", *(f"*{suffix}" for suffix in CODE))
    counts: Counter[str] = Counter()
    for line in found.splitlines():
        path, _, count = line.removeprefix(f"{commit}:").rpartition(":")
        counts[package_of(PurePath(path))] += int(count)
    return counts


def package_of(path: PurePath) -> str:
    """A folder of a package, or the package itself for the files that lie in it; of tests too."""
    parts = path.parts[:-1]
    depth = 3 if parts[:1] == ("tests",) else 2
    return "/".join(parts[:depth]) or "."


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
