"""Background responses: generated whether or not a client waits, streamed from any event on, cancelled by any ingress.

The ingress that runs one holds its lease in the store, and looks for a mark of cancellation. Others read what is
stored. Who is asked for a response whose lease nobody has renewed takes it over: the request is remembered as that of a
resumable stream, so the same events are generated again.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from engine.errors import MantaError
from serve_app.logs.request_record import RequestRecord
from serve_app.pipeline.answer import Generation
from serve_app.responses.adapter import PreparedResponse
from serve_app.responses.kept import KeptResponse, KeptResponses, context_of
from serve_app.responses.renderer import ResponseStream
from serve_app.resumption.records import StreamRecords
from serve_app.tenants.tenant import Tenant
from serve_app.transport.errors import fault_of

__all__ = ["BackgroundResponses", "Begin", "Started"]

logger = logging.getLogger(__name__)

WATCH_S = 1.0  # between two renewals of a lease, and two looks for a cancellation
DEAD_S = 15.0  # without a renewal
POLL_S = 0.25  # of an ingress that waits for another one's response
OPEN = ("queued", "in_progress")


class Started(msgspec.Struct, frozen=True):
    """What a background response is made of."""

    tenant: Tenant
    prepared: PreparedResponse
    generation: Generation
    stream: ResponseStream
    history: bytes
    record: RequestRecord | None = None  # of its request, which is written down when it has ended

    @property
    def stream_id(self) -> str:
        return self.generation.resumable.point.stream_id if self.generation.resumable is not None else ""


# from a tenant and a stream id to the same response again. Raises NotFound for a request that is no longer kept
Begin = Callable[[Tenant, str], Awaitable[Started]]


class _Run:
    """A response that this ingress generates."""

    def __init__(self, started: Started) -> None:
        self.started = started
        self.events: list[bytes] = []
        self.changed = asyncio.Event()  # replaced at each change
        self.is_over = False
        self.is_cancelled = False  # by a client
        self.is_ending = False  # too late for a cancellation: what there is gets stored
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        self.is_cancelled = True
        self.stop()

    def stop(self) -> None:
        if self.task is not None and not self.is_ending:
            self.task.cancel()

    def add(self, events: bytes) -> None:
        if events:
            self.events += [event + b"\n\n" for event in events.split(b"\n\n")[:-1]]
            self.wake()

    def wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class BackgroundResponses:
    def __init__(self, kept: KeptResponses, records: StreamRecords, begin_again: Begin) -> None:
        self._kept, self._records, self._begin_again = kept, records, begin_again
        self._runner = secrets.token_hex(8)
        self._runs: dict[tuple[str, str], _Run] = {}  # by tenant and id

    async def start(self, started: Started) -> dict[str, Any]:
        """The queued response."""
        run, id_ = _Run(started), started.stream.state.document.id
        body = started.stream.state.document.body("queued", [])
        await self._put(run, body)
        await self._kept.renew(started.tenant, id_, self._runner)
        if started.record is not None:
            started.record.hold()
        self._begin(run, id_)
        return body

    def _begin(self, run: _Run, id_: str) -> None:
        name = run.started.tenant.name, id_
        run.add(run.started.stream.queued())
        self._runs[name] = run
        run.task = asyncio.create_task(self._run(run, name))

    async def events(self, tenant: Tenant, id_: str, after: int) -> AsyncGenerator[bytes]:
        """The events behind number `after`, those to come included. b"" in silence."""
        run = self._runs.get((tenant.name, id_))
        if run is None:
            async for event in self._events_elsewhere(tenant, id_, after):
                yield event
            return
        sent = after + 1
        while sent < len(run.events) or not run.is_over:
            changed = run.changed
            for event in run.events[sent:]:
                yield event
            sent = max(sent, len(run.events))
            if not run.is_over and sent >= len(run.events):
                await changed.wait()

    async def cancel(self, tenant: Tenant, id_: str) -> None:
        """Returns when what is stored says so."""
        run = self._runs.get((tenant.name, id_))
        if run is not None and run.task is not None:
            run.cancel()
            await asyncio.wait([run.task])
            return
        await self._kept.mark(tenant, "cancel", id_)
        while (await self.current(tenant, id_))["status"] in OPEN:  # at the latest until it counts as dead
            await asyncio.sleep(POLL_S)

    async def current(self, tenant: Tenant, id_: str) -> dict[str, Any]:
        """The response as it is now; one whose ingress has died is taken over."""
        kept = await self._kept.response(tenant, id_)
        if kept is None:
            return {"status": "failed"}
        response = kept.response
        if response["status"] not in OPEN or (tenant.name, id_) in self._runs:
            return response
        if not await self._kept.take_over(tenant, id_, self._runner, DEAD_S):
            return response
        if await self._kept.marked_s(tenant, "cancel", id_) is not None:
            response["status"] = "cancelled"
        else:
            try:
                self._begin(_Run(await self._begin_again(tenant, kept.stream_id)), id_)
                return response
            except MantaError as error:
                logger.warning("background response %s cannot be taken over: %s", id_, error)
            fault = {"code": "server_error", "message": "the server that generated this response has stopped"}
            response |= {"status": "failed", "error": fault}
        await self._kept.put_response(tenant, id_, msgspec.structs.replace(kept, body=msgspec.json.encode(response)))
        return response

    async def _events_elsewhere(self, tenant: Tenant, id_: str, after: int) -> AsyncGenerator[bytes]:
        """Of a response that another ingress generates, or that is over: when it is over, all of them."""
        while (await self.current(tenant, id_))["status"] in OPEN:
            if (tenant.name, id_) in self._runs:  # taken over
                async for event in self.events(tenant, id_, after):
                    yield event
                return
            yield b""
            await asyncio.sleep(POLL_S)
        kept = await self._kept.response(tenant, id_)
        for event in (kept.events if kept is not None else b"").split(b"\n\n")[after + 1 : -1]:
            yield event + b"\n\n"

    async def _run(self, run: _Run, name: tuple[str, str]) -> None:
        watcher = asyncio.create_task(self._watch(run, name[1]))
        stream, last = run.started.stream, b""
        final: dict[str, Any] | None
        try:
            final, last = await self._generated(run)
        except asyncio.CancelledError:  # of the server or another runner: whoever takes it over goes on
            final = stream.state.cancelled() if run.is_cancelled else None
        except Exception as error:
            fault = fault_of(error, run.started.generation.metadata.id)
            final, last = stream.state.failed(fault), stream.fault(fault)
        finally:
            run.is_ending = True
            watcher.cancel()
        try:  # who has seen the last event finds the response
            if final is not None:
                await self._put(run, final, last)
        except Exception as error:
            logger.warning("background response %s could not be kept: %r", name[1], error)
        finally:
            self._runs.pop(name, None)
            run.is_over = True
            if run.started.record is not None:
                run.started.record.release()
            run.add(last)
            run.wake()

    async def _generated(self, run: _Run) -> tuple[dict[str, Any], bytes]:
        """The response, and its last event."""
        stream, generation = run.started.stream, run.started.generation
        is_begun = False
        async with aclosing(generation.deltas) as deltas:
            async for delta in deltas:
                if not is_begun:
                    await self._note(run)
                    run.add(stream.opening(generation.output.usage()))
                    is_begun = True
                    await self._put(run, stream.state.document.body("in_progress", []))
                run.add(stream.delta(delta, None))
        usage = generation.output.usage()
        final, last = stream.state.final(usage), stream.closing(usage)
        if generation.resumable is not None:
            generation.resumable.facts.completed = generation.metadata.completed()
        await self._note(run)
        return final, last

    async def _note(self, run: _Run) -> None:
        """Keeps what a second run is to say too."""
        if (resumable := run.started.generation.resumable) is not None:
            await self._records.note(run.started.tenant, resumable.point.stream_id, resumable.facts)

    async def _put(self, run: _Run, body: dict[str, Any], last: bytes = b"") -> None:
        """Stores what there is. A stream that is over is stored with its events, `last` behind those that were sent."""
        started, prepared = run.started, run.started.prepared
        kept = KeptResponse(
            body=msgspec.json.encode(body),
            input_items=prepared.input_items,
            is_background=True,
            stream_id=started.stream_id,
        )
        if body["status"] in ("completed", "incomplete"):
            kept.context = context_of(started.history, prepared.input_items, body)
            if prepared.conversation_id is not None:
                output = msgspec.json.encode(body["output"])
                await self._kept.extend_conversation(
                    started.tenant, prepared.conversation_id, prepared.input_items, output
                )
        if body["status"] not in OPEN and prepared.delivery.stream:
            kept.events = b"".join(run.events) + last
        await self._kept.put_response(started.tenant, body["id"], kept)

    async def _watch(self, run: _Run, id_: str) -> None:
        """Renews the run's lease, and ends it where another ingress has asked for that, or has taken it over."""
        tenant = run.started.tenant
        while True:
            try:
                if not await self._kept.renew(tenant, id_, self._runner):
                    logger.warning("background response %s: another ingress has taken it over", id_)
                    run.stop()
                elif await self._kept.marked_s(tenant, "cancel", id_) is not None:
                    run.cancel()
            except Exception as error:
                logger.warning("the store of background responses: %r", error)
            await asyncio.sleep(WATCH_S)
