"""JSON hints for the search of a short completion: the only place in the engine that knows JSON's syntax.

They order what is tried first. A grammar of another language gets a completion as surely, with more steps.
"""

import re

__all__ = ["BETWEEN", "BLANKS", "CLOSING", "search_order"]

MAX_NAMED = 16  # required names and pattern literals
BLANKS = " \t\n\r"
CLOSING = b'}]"'
BETWEEN = [bytes([char]) for char in b'"{}[],:']
STRUCTURE = b",:0123456789ntf[{-"
IN_TEXT = b"@.:/-0aTZP"  # characters that `format`s require
NAMED = re.compile(r'"(pattern|required)": ?("(?:[^"\\]|\\.)*"|\[[^\]]*\])')


def search_order(grammar: str) -> tuple[bytes, bytes, list[bytes]]:
    """The characters to try first where few are allowed, where many are, and the literals of patterns."""
    named = {"required": b"", "pattern": b""}
    for found in NAMED.finditer(grammar):
        named[found[1]] += bytes(char for char in found[2].encode() if chr(char).isalnum() or char in b"@.:/-_")
    every = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100)) + b" \t\n\r"
    patterns = [found[2].encode() for found in NAMED.finditer(grammar) if found[1] == "pattern"]
    words = [word for pattern in patterns for word in re.findall(rb"[A-Za-z0-9@_-]{2,}", pattern)]
    words += [bytes([char]) for char in named["pattern"] and named["pattern"] + IN_TEXT]
    narrow = CLOSING + STRUCTURE[:2] + named["required"] + named["pattern"] + STRUCTURE + every
    wide = named["pattern"] + IN_TEXT + every
    return bytes(dict.fromkeys(narrow)), bytes(dict.fromkeys(wide)), list(dict.fromkeys(words))[:MAX_NAMED]
