"""Text of others (names of models, files, programs, hosts) as one harmless line in a terminal."""

__all__ = ["plain"]


def plain(text: str) -> str:
    """With escapes in place of control characters, line breaks, and characters that reorder or hide others."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
