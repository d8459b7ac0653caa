"""The files of a page, read once and served as they are, under a strict Content-Security-Policy."""

from pathlib import Path

from fastapi.responses import Response
from starlette.exceptions import HTTPException

__all__ = ["PageFiles"]

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
}
# A page has what it needs, and speaks to its own server alone: what a model writes can load nothing, even if by
# a fault of ours it became markup.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data: blob: 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class PageFiles:
    def __init__(self, name: str) -> None:
        """name   of a folder beside this module"""
        folder = Path(__file__).with_name(name)
        self._files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in CONTENT_TYPES}

    def show(self, name: str) -> Response:
        """Raises 404."""
        if name not in self._files:
            raise HTTPException(404, "the page has no such file")
        return Response(self._files[name], media_type=CONTENT_TYPES[Path(name).suffix], headers=HEADERS)
