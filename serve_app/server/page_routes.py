"""The chat page at /, one self-contained file, and the API's documentation at /docs."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse

from configs.schema import AccessConfig
from serve_app.pipeline.auth import Authenticator

__all__ = ["page_router"]


def page_router(app: FastAPI, access: AccessConfig, auth: Authenticator) -> APIRouter:
    """The routes that `access` enables."""
    router = APIRouter(include_in_schema=False)
    page = Path(__file__).with_name("page.html").read_text()

    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    async def show_schema() -> Any:
        return JSONResponse(app.openapi())

    async def show_docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="openapi.json", title=f"{app.title} - API")

    if access.chat_page != "off":
        router.add_api_route("/", show_page, dependencies=auth.guard(access.chat_page))
    if access.docs != "off":
        guard = auth.guard(access.docs)
        router.add_api_route("/openapi.json", show_schema, dependencies=guard)
        router.add_api_route("/docs", show_docs, dependencies=guard)
    return router
