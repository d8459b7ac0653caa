"""OPTIONS requests: preflight and plain ones are answered on every route, with the methods that it takes."""

from starlette.routing import Match, Router
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["OptionsRequests"]

METHODS = ("GET", "HEAD", "POST", "DELETE")


class OptionsRequests:
    """Middleware. Needs no API key: a preflight has none. Which origins may call is the CORS middleware's answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = _methods(scope) if scope["type"] == "http" and scope["method"] == "OPTIONS" else []
        if not methods:
            await self._app(scope, receive, send)
            return
        allow = ", ".join([*methods, "OPTIONS"])
        await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow.encode())]})
        await send({"type": "http.response.body", "body": b""})


def _methods(scope: Scope) -> list[str]:
    """Those of the path; [] for an unknown one."""
    router: Router = scope["app"].router

    def is_taken(method: str) -> bool:
        asked = {**scope, "method": "GET" if method == "HEAD" else method}
        return any(route.matches(asked)[0] == Match.FULL for route in router.routes)

    return [method for method in METHODS if is_taken(method)]
