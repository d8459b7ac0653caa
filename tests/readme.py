"""The README and the pages that it leads to, and their blocks of commands as they stand there."""

import re
from pathlib import Path

__all__ = ["NOTES", "PAGES", "ROOT", "block", "blocks", "text"]

ROOT = Path(__file__).parent.parent
FOLDERS = ("", "serve_app", "cluster", "engine", "kernels", "configs", "scripts/bench", "scripts/examples")
PAGES = tuple(ROOT / folder / "README.md" for folder in FOLDERS)
# pages without commands that are run as they stand
NOTES = (ROOT / "CHANGELOG.md", ROOT / ".github" / "CONTRIBUTING.md", ROOT / ".github" / "SECURITY.md")


def text() -> str:
    """Of all pages."""
    return "\n".join(page.read_text() for page in PAGES)


def blocks() -> list[tuple[str, str]]:
    """Language and text of each that is not plain text."""
    return re.findall(r"^```(?!text)(\w+)\n(.*?)^```$", text(), re.MULTILINE | re.DOTALL)


def block(beginning: str) -> str:
    """The one block that begins so."""
    (found,) = (commands for _, commands in blocks() if commands.startswith(beginning))
    return found
