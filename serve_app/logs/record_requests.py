"""Middleware: begins the record of each request, and ends it with the response."""

from collections.abc import Sequence
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.logs.request_record import PROBES, RequestRecord, RequestSink, TraceHandle

__all__ = ["TRACE_HEADER", "BeginTrace", "RecordRequests"]

TRACE_HEADER = "X-Trace-Id"
PREFIX = "/v1"


class BeginTrace(Protocol):
    def begin(self, record: RequestRecord, headers: Headers) -> TraceHandle | None:
        """None for a request that is not sampled."""
        ...


class RecordRequests:
    """The record is in `scope["state"]["record"]`; the answer to a traced request has its trace's id in X-Trace-Id."""

    def __init__(self, app: ASGIApp, sinks: Sequence[RequestSink], traces: BeginTrace | None) -> None:
        self._app, self._sinks, self._traces = app, sinks, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(scope["method"], self._sinks)
        if self._traces is not None and scope["path"] not in PROBES:
            record.trace = self._traces.begin(record, Headers(scope=scope))
        state = scope.setdefault("state", {})
        state["record"] = record

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if record.trace is not None:
                    MutableHeaders(scope=message)[TRACE_HEADER] = record.trace.trace_id
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                record.is_sent = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:  # the server answers it
            record.status, record.error = record.status or 500, type(error).__name__
            raise
        finally:
            record.route = _route_of(scope)
            record.request_id = state.get("request_id", "")
            record.error = record.error or state.get("error_type", "")
            record.release()


def _route_of(scope: Scope) -> str:
    """As it is declared, "" for an unknown one. Routes of included routers do not know their prefix."""
    path: str = getattr(scope.get("route"), "path", "")
    is_below = scope["path"].removeprefix(scope.get("root_path", "")).startswith(f"{PREFIX}/")
    return f"{PREFIX}{path}" if path and is_below and not path.startswith(PREFIX) else path
