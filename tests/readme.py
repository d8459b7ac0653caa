"""The README and the pages that it leads to, and their blocks of commands as they stand there."""

import re
from pathlib import Path

__all__ = ["PAGES", "ROOT", "block", "blocks", "text"]

ROOT = Path(__file__).parent.parent
PAGES = tuple(ROOT / folder / "README.md" for folder in ("", "serve_app", "cluster", "configs", "scripts/bench"))


def text() -> str:
    """Of all pages."""
    return "\n".join(page.read_text() for page in PAGES)


def blocks() -> list[tuple[str, str]]:
    """Language and text of each."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text(), re.MULTILINE | re.DOTALL)


def block(beginning: str) -> str:
    """The one block that begins so."""
    (found,) = (commands for _, commands in blocks() if commands.startswith(beginning))
    return found
