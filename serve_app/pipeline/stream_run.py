"""The run of a resumable stream: generates events for whoever reads them, and goes on without a reader for a while."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Protocol

import msgspec

from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import UsageSource
from serve_app.pipeline.renderer import CompletionTime, StreamRenderer
from serve_app.resumption.event_log import EventLog
from serve_app.resumption.records import StreamFacts
from serve_app.tenants.tenant import Tenant
from serve_app.transport.connection import ClientGone
from serve_app.transport.errors import fault_of

__all__ = ["RunOwner", "StreamRun", "StreamSource"]


class StreamSource(msgspec.Struct, frozen=True):
    """What a stream's events are made of."""

    deltas: AsyncGenerator[ChoiceDelta]
    output: UsageSource
    renderer: StreamRenderer
    completed: CompletionTime


class RunOwner(Protocol):
    async def note(self, run: "StreamRun") -> None:
        """Keeps the run's facts where other ingresses find them."""
        ...

    async def outlive(self, run: "StreamRun") -> None:
        """Returns when a run without a reader is to end."""
        ...

    def on_idle(self, run: "StreamRun") -> None:
        """The run is over and has no reader: it is kept for one that comes back, or not."""
        ...

    def forget(self, run: "StreamRun") -> None: ...


class StreamRun:
    """Of one stream in this ingress, for the tenant whose it is."""

    def __init__(
        self, owner: RunOwner, tenant: Tenant, stream_id: str, source: StreamSource, log: EventLog, facts: StreamFacts
    ) -> None:
        self.tenant, self.stream_id, self.log, self.facts = tenant, stream_id, log, facts
        self.is_over = False
        self._owner, self._source = owner, source
        self._readers: list[_Reader] = []
        self._num_attached = 0
        self.is_read = False  # somebody was sent the last event
        self._has_failed, self._fault = False, b""
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        self._watcher: asyncio.Task[None] | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While somebody reads, or waits for the first event."""
        self._num_attached += 1
        self._stop_watching()
        try:
            yield
        finally:
            self._num_attached -= 1
            if not self._num_attached:
                self._on_alone()

    async def begun(self) -> None:
        """Returns once the engine has accepted. Raises its refusal."""
        await asyncio.wait([self._begun])
        if self._begun.cancelled():  # another request of its client runs it again
            raise ClientGone
        self._begun.result()

    async def deliver(self, after: int, put: Callable[[bytes], None]) -> None:
        """Puts the events behind number `after`, up to the last. Raises ClientGone if `put` does, or if they are no
        longer kept: when the client comes back, they are generated again.
        """
        events = self.log.after(after)
        if events is None:
            raise ClientGone
        put(events + self._fault)
        if not self.is_over:
            reader = _Reader(put, asyncio.get_running_loop().create_future())
            self._readers.append(reader)
            try:
                await reader.ended
            finally:
                self._readers.remove(reader)

    async def close(self) -> None:
        """Aborts the request. Returns when the engine knows."""
        self._has_failed = True
        self._task.cancel()
        await asyncio.wait([self._task])
        self.discard()

    def discard(self) -> None:
        """Drops what it keeps. A stream that is taken up later is generated again."""
        self._stop_watching()
        self._owner.forget(self)

    async def _run(self) -> None:
        try:
            await self._generate()
        except asyncio.CancelledError:
            self._end()
            raise
        except Exception as error:
            if self._begun.done():
                # without an id: who comes back gets what should have been here
                self._fault = self._source.renderer.fault(fault_of(error))
                self._send(self._fault)
            else:
                self._begun.set_exception(error)
                self._begun.exception()  # its readers may be gone: do not warn
            self._has_failed = True
        self._end()

    async def _generate(self) -> None:
        source, facts, log = self._source, self.facts, self.log
        output, renderer = source.output, source.renderer
        async with aclosing(source.deltas) as deltas:
            delta = await anext(deltas)
            await self._owner.note(self)  # before the first byte: a second run is to say the same
            self._begun.set_result(None)
            self._send(log.add(renderer.opening(output.usage())))
            self._send(log.add(renderer.delta(delta, output.usage_of(delta.index))))
            async for delta in deltas:
                usage = output.usage_of(delta.index) if renderer.wants_usage else None
                self._send(log.add(renderer.delta(delta, usage)))
        events = renderer.closing(output.usage())
        facts.completed, facts.num_events = source.completed(), log.num_events + events.count(b"\n\n")
        await self._owner.note(self)
        self._send(log.add(events))

    def _send(self, events: bytes) -> None:
        for reader in self._readers:
            try:
                reader.put(events)
            except ClientGone as gone:
                if not reader.ended.done():
                    reader.ended.set_exception(gone)

    def _end(self) -> None:
        self.is_over = True
        if not self._begun.done():
            self._begun.cancel()
        for reader in self._readers:
            if not reader.ended.done():
                reader.ended.set_result(None)
        if not self._num_attached:
            self._on_idle()

    def _on_alone(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        if self.is_over:
            self._on_idle()

    def _on_idle(self) -> None:
        if self.is_read or self._has_failed:
            self.discard()
        else:
            self._owner.on_idle(self)

    async def _watch(self) -> None:
        await self._owner.outlive(self)
        self._watcher = None
        await self.close()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None


class _Reader(msgspec.Struct):
    put: Callable[[bytes], None]
    ended: asyncio.Future[None]
