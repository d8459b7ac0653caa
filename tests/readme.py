"""The README's blocks of commands, as they stand there."""

import re
from pathlib import Path

__all__ = ["ROOT", "block", "blocks"]

ROOT = Path(__file__).parent.parent


def blocks() -> list[tuple[str, str]]:
    """Language and text of each."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def block(beginning: str) -> str:
    """The one block that begins so."""
    (found,) = (text for _, text in blocks() if text.startswith(beginning))
    return found
