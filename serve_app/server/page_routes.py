"""The chat page for people, at /: one file, nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

__all__ = ["page_router"]


def page_router() -> APIRouter:
    router = APIRouter()
    page = Path(__file__).with_name("page.html").read_text()

    @router.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    return router
