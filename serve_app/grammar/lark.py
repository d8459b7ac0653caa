"""Helpers for llguidance's Lark dialect: markers, patterns, escapes."""

import json
import re
from collections.abc import Mapping

from serve_app.text.vocabulary import Vocabulary

__all__ = ["TEXT", "Markers", "pattern", "within_slashes"]

TEXT = r"TEXT: /(.|\n)*/"


class Markers:
    """Writes texts as grammar expressions: special tokens as tokens, everything else as strings."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.special: Mapping[str, int] = {vocabulary.text(token): token for token in vocabulary.special_ids}

    def text(self, text: str) -> str:
        return " ".join(
            f"<[{self.special[part]}]>" if part in self.special else json.dumps(part)
            for part in self.parts(text)
            if part
        )

    def parts(self, text: str) -> list[str]:
        """The text, split at its special tokens."""
        known = sorted((marker for marker in self.special if marker and marker in text), key=len, reverse=True)
        return re.split("(" + "|".join(map(re.escape, known)) + ")", text) if known else [text]


def pattern(text: str) -> str:
    """The text, escaped for a regular expression."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")


def within_slashes(regex: str) -> str:
    """A regular expression with its slashes escaped."""
    out, escaped = [], False
    for char in regex:
        out.append("\\/" if char == "/" and not escaped else "\\n" if char == "\n" else char)
        escaped = char == "\\" and not escaped
    return "".join(out)
