"""Errors of schemas that have no grammar, each with the path and the keyword."""

from typing import NamedTuple

from serve_app.grammar.schema_walk import Path

__all__ = ["Unsupported", "InvalidSchema", "Unsatisfiable", "Piece"]


class Unsupported(Exception):
    """No grammar supports the keyword."""

    def __init__(self, path: Path, keyword: str, why: str) -> None:
        super().__init__(why)
        self.path, self.keyword = path, keyword


class InvalidSchema(Exception):
    """The keyword's value is invalid."""

    def __init__(self, path: Path, keyword: str, why: str) -> None:
        super().__init__(why)
        self.path, self.keyword = path, keyword


class Unsatisfiable(Exception):
    """No document satisfies the schema."""

    def __init__(self, path: Path, keyword: str, why: str) -> None:
        super().__init__(why)
        self.path, self.keyword = path, keyword


class Piece(NamedTuple):
    """A part of a schema that llguidance's JSON compiler gets, and may refuse, with the keyword that is the reason."""

    path: Path
    keyword: str
    rule: str
