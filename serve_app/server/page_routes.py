"""The chat page at / with its files at /chat_page/, and the API's documentation at /docs."""

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response

from configs.schema import AccessConfig
from serve_app.pipeline.auth import Authenticator
from serve_app.server.page_files import PageFiles

__all__ = ["page_router"]


def page_router(app: FastAPI, access: AccessConfig, auth: Authenticator) -> APIRouter:
    """The routes that `access` enables."""
    router = APIRouter(include_in_schema=False)
    page = PageFiles("chat_page")

    async def show_page() -> Response:
        return page.show("index.html")

    async def show_part(name: str) -> Response:
        return page.show(name)

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
