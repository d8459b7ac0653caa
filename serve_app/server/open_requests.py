"""Server load: the number of open requests."""

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["CountOpenRequests", "OpenRequests"]


class OpenRequests:
    """The count of open requests, kept by the middleware and shown at /load."""

    def __init__(self) -> None:
        self.count = 0


class CountOpenRequests:
    """Middleware: a POST is open until its answer has been sent."""

    def __init__(self, app: ASGIApp, open_requests: OpenRequests) -> None:
        self._app = app
        self._open = open_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counts = scope["type"] == "http" and scope["method"] == "POST"
        self._open.count += counts
        try:
            await self._app(scope, receive, send)
        finally:
            self._open.count -= counts
