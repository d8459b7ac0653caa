"""Resumable streams: the runs of an ingress, and the responses that follow them."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Literal
from weakref import WeakValueDictionary

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import Unavailable
from serve_app.pipeline.responses import EVENT_HEADERS, StreamLimits
from serve_app.pipeline.stream_run import StreamRun, StreamSource
from serve_app.resumption.event_ids import KEY_HEADER
from serve_app.resumption.event_log import EventLog
from serve_app.resumption.records import Resumable, StreamRecord, StreamRecords
from serve_app.tenants.tenant import Tenant
from serve_app.transport.connection import ClientGone, while_connected

__all__ = ["OnResumed", "ResumableStreams", "Source"]

Source = Literal["kept", "generated"]  # of the events of a stream that a client has come back to; generated: again
OnResumed = Callable[[Source], None]

WATCH_S = 1.0  # between two looks whether a client has gone on at another ingress


class ResumableStreams:
    """A RunOwner: knows the streams that run in this ingress, and the ends of those whose clients are gone."""

    def __init__(self, records: StreamRecords, on_resumed: OnResumed = lambda source: None) -> None:
        self._records, self._config = records, records.config
        self._runs: dict[tuple[str, str], StreamRun] = {}  # by tenant and stream
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._on_resumed = on_resumed
        self._runner = secrets.token_hex(8)

    def lock(self, tenant: Tenant, resumable: Resumable | None) -> AbstractAsyncContextManager[object]:
        """One request of a stream at a time is attached, or begins it."""
        if resumable is None:
            return nullcontext()
        return self._locks.setdefault((tenant.name, resumable.point.stream_id), asyncio.Lock())

    async def attached(self, tenant: Tenant, resumable: Resumable, limits: StreamLimits) -> Response | None:
        """The rest of a stream that runs here, or 204 if the client has all of it; None: it is to be generated.

        Raises Unavailable for a request that came while its stream began, when that is too long to be kept.
        """
        if resumable.has_all:
            return Response(status_code=204)
        point = resumable.point
        run = self._runs.get((tenant.name, point.stream_id))
        if run is None:
            return None
        if run.log.after(point.after) is not None:
            self._on_resumed("kept")
            return _ResumableResponse(run, point.after, limits, {})
        if resumable.record is None:
            raise Unavailable(f"{KEY_HEADER}: its stream has begun; repeat the request", 1.0)
        await run.close()
        return None

    async def remember(self, tenant: Tenant, stream_id: str, record: StreamRecord) -> None:
        """Raises Unavailable."""
        await self._records.remember(tenant, stream_id, record)

    def start(
        self,
        tenant: Tenant,
        resumable: Resumable,
        source: StreamSource,
        limits: StreamLimits,
        headers: Mapping[str, str],
    ) -> Response:
        """Runs the stream. The response has the events that the client does not."""
        point, facts = resumable.point, resumable.facts
        if resumable.record is not None:
            self._on_resumed("generated")
        facts.runner = self._runner
        # all that is kept fits into the send buffer of a client that comes back, with new events behind it
        log = EventLog(point.stream_id, limits.max_waiting_bytes // 2, skipped=point.after + 1)
        run = StreamRun(self, tenant, point.stream_id, source, log, facts)
        self._runs[tenant.name, point.stream_id] = run
        return _ResumableResponse(run, point.after, limits, headers)

    async def end(self, tenant: Tenant, stream_id: str) -> None:
        """Aborts a stream, wherever it runs, and forgets it. Raises NotFound."""
        await self._records.forget(tenant, stream_id)
        run = self._runs.get((tenant.name, stream_id))
        if run is not None:
            await run.close()

    async def close(self) -> None:
        """Aborts all runs."""
        for run in list(self._runs.values()):
            await run.close()
        await self._records.close()

    async def note(self, run: StreamRun) -> None:
        await self._records.note(run.tenant, run.stream_id, run.facts)

    async def outlive(self, run: StreamRun) -> None:
        """Until the time is over, or the client has gone on, or ended the stream, at another ingress."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._config.grace_s
        while (left_s := end_s - loop.time()) > 0:
            await asyncio.sleep(min(WATCH_S, left_s))
            if not await self._records.is_run_by(self._runner, run.tenant, run.stream_id):
                return

    def on_idle(self, run: StreamRun) -> None:
        """Keeps its events, within the limits: beyond them, those of the oldest streams are dropped."""
        name = run.tenant.name, run.stream_id
        if self._runs.get(name) is not run:
            return
        self._runs[name] = self._runs.pop(name)
        idle = [one for one in self._runs.values() if one.is_over]
        _drop_oldest([one for one in idle if one.tenant is run.tenant], self._config.max_bytes_per_key)
        _drop_oldest([one for one in idle if (one.tenant.name, one.stream_id) in self._runs], self._config.max_bytes)

    def forget(self, run: StreamRun) -> None:
        name = run.tenant.name, run.stream_id
        if self._runs.get(name) is run:
            del self._runs[name]


class _ResumableResponse(Response):
    """Server-sent events of a run. A client that leaves does not end it."""

    media_type = "text/event-stream"

    def __init__(self, run: StreamRun, after: int, limits: StreamLimits, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._more = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._run, self._after, self._limits = run, after, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        run, limits = self._run, self._limits
        try:
            async with while_connected(receive):
                with run.attached():
                    await run.begun()
                    await send({"type": "http.response.start", "status": 200, "headers": [*EVENT_HEADERS, *self._more]})
                    async with limits.outbox(send) as outbox:
                        await run.deliver(self._after, outbox.put)
                    run.is_read = True
        except ClientGone:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _drop_oldest(runs: Iterable[StreamRun], max_bytes: int) -> None:
    runs = list(runs)
    num_bytes = sum(run.log.num_bytes for run in runs)
    for run in runs:
        if num_bytes <= max_bytes:
            return
        num_bytes -= run.log.num_bytes
        run.discard()
