"""The chat page at / with its files at /chat_page/, and the API's documentation at /docs."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from configs.schema import AccessConfig
from serve_app.pipeline.auth import Authenticator

__all__ = ["page_router"]

FOLDER = Path(__file__).with_name("chat_page")
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
}
# The page has what it needs, and speaks to its own server alone: what a model writes can load nothing, even if by
# a fault of ours it became markup.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data: blob: 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_router(app: FastAPI, access: AccessConfig, auth: Authenticator) -> APIRouter:
    """The routes that `access` enables."""
    router = APIRouter(include_in_schema=False)
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in CONTENT_TYPES}

    async def show_page() -> Response:
        return show_file("index.html")

    async def show_part(name: str) -> Response:
        return show_file(name)

    def show_file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "the chat page has no such file")
        return Response(files[name], media_type=CONTENT_TYPES[Path(name).suffix], headers=HEADERS)

    async def show_schema() -> Any:
        return JSONResponse(app.openapi())

    async def show_docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="openapi.json", title=f"{app.title} - API")

    if access.chat_page != "off":
        guard = auth.guard(access.chat_page)
        router.add_api_route("/", show_page, dependencies=guard)
        router.add_api_route("/chat_page/{name}", show_part, dependencies=guard)
    if access.docs != "off":
        guard = auth.guard(access.docs)
        router.add_api_route("/openapi.json", show_schema, dependencies=guard)
        router.add_api_route("/docs", show_docs, dependencies=guard)
    return router
