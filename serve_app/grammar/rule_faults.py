"""Unsupported schemas: what keeps one from being written as grammar rules, each with the place and the keyword."""

from typing import NamedTuple

from serve_app.grammar.schema_walk import Path

__all__ = ["CannotHold", "Mistake", "Nothing", "Piece"]


class CannotHold(Exception):
    """No grammar holds an answer to what stands there."""

    def __init__(self, path: Path, keyword: str, why: str) -> None:
        super().__init__(why)
        self.path, self.keyword = path, keyword


class Mistake(Exception):
    """What stands there means nothing."""

    def __init__(self, path: Path, keyword: str, why: str) -> None:
        super().__init__(why)
        self.path, self.keyword = path, keyword


class Nothing(Exception):
    """No document satisfies what stands there."""

    def __init__(self, path: Path, keyword: str, why: str) -> None:
        super().__init__(why)
        self.path, self.keyword = path, keyword


class Piece(NamedTuple):
    """What llguidance's JSON compiler is asked for, and why: it may refuse."""

    path: Path
    keyword: str
    rule: str
