"""GET /status: JSON for machines, and for browsers the page of status_page/, which shows the same JSON."""

from fastapi import APIRouter, Request, Response

from configs.schema import AccessConfig
from serve_app.api.openapi import responses
from serve_app.api.status import ModelFleet, ModelStatus, StatusList
from serve_app.model.registry import Registry
from serve_app.pipeline.auth import Authenticator
from serve_app.server.page_files import PageFiles

__all__ = ["status_router"]


def status_router(registry: Registry, access: AccessConfig, auth: Authenticator) -> APIRouter:
    """The routes that `access` enables. The page has no data of its own: whoever reads it without a key is asked for
    one by what it loads.
    """
    router = APIRouter(tags=["server"])
    page = PageFiles("status_page")

    async def show_status(http: Request) -> Response:
        if _wants_page(http.headers.get("accept", "")):
            return _varying(page.show("index.html"))
        if access.status == "key":
            auth.tenant(http)
        found = StatusList(
            data=[ModelStatus.model_validate(one) for one in await registry.statuses()],
            fleet=[ModelFleet.model_validate(one) for one in await registry.fleet()],
        )
        return _varying(Response(found.model_dump_json(), media_type="application/json"))

    async def show_part(name: str) -> Response:
        return page.show(name)

    if access.status != "off":
        shapes = responses(StatusList)
        shapes[200].setdefault("content", {})["text/html"] = {"schema": {"type": "string"}}
        summary = "What the replicas of each model have and do; for browsers, a page that shows it"
        router.add_api_route("/status", show_status, summary=summary, responses=shapes, response_class=Response)
        router.add_api_route("/status_page/{name}", show_part, include_in_schema=False)
    return router


def _wants_page(accept: str) -> bool:
    """Whether an Accept header ranks HTML, by name, above JSON. Only browsers ask so; */* gets JSON."""
    ranks = {}
    for part in accept.split(","):
        name, *options = (one.strip().lower() for one in part.split(";"))
        quality = next((one[2:] for one in options if one.startswith("q=")), "1")
        ranks[name] = float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0
    return ranks.get("text/html", 0.0) > ranks.get("application/json", 0.0)


def _varying(response: Response) -> Response:
    response.headers["Vary"] = "Accept"
    return response
