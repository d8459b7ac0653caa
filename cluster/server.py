"""The replica's end of the wire: admission, backpressure, drain, heartbeats."""

import asyncio
import hmac
import logging
import secrets
import time
from collections import defaultdict
from typing import Protocol

import msgspec

from cluster.state_shard import StateShard
from cluster.wire import (
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Ask,
    Challenge,
    Drain,
    Entries,
    Fetch,
    Fetched,
    FromIngress,
    FromReplica,
    Heartbeat,
    Hello,
    Keep,
    Kept,
    ListEntries,
    Report,
    Seal,
    Stop,
    Submit,
    Welcome,
    WireError,
    encode,
    prove,
    read_frame,
)
from configs.schema import WireConfig
from engine.engine import Engine
from engine.errors import EngineFailed
from engine.runtime.engine_thread import Abort, EngineThread
from engine.runtime.engine_thread import Ask as AskEngine
from engine.runtime.engine_thread import Submit as SubmitToEngine
from engine.runtime.watchdog import Watchdog
from engine.types import (
    EngineOutputs,
    EngineStatus,
    GenerateRequest,
    Rejection,
    RequestOutput,
    RequestState,
    SamplingParams,
    TokenSpan,
)

__all__ = ["Observer", "WireServer"]

logger = logging.getLogger(__name__)

PROBE = -1  # the connection number in request ids of health probes
MAX_HELLO_BYTES = 4096  # bounds the memory of an unauthenticated connection


class Observer(Protocol):
    """Observes requests and reports, for metrics; request ids are the engine's."""

    def submitted(self, request_id: str, request: GenerateRequest) -> None: ...

    def reported(self, report: EngineOutputs) -> None: ...

    def heartbeat(self, status: EngineStatus) -> None: ...


class WireServer:
    """Owns the engine's thread and the connections of all ingresses. Lives on one event loop.

    Request ids are the ingress's; the engine's are prefixed with the connection's number, so that those of two
    ingresses cannot collide.
    """

    def __init__(
        self, engine: Engine, replica_id: str, config: WireConfig, secret: bytes, observer: Observer | None = None
    ) -> None:
        self._observer = observer
        self._config = config
        self._secret = secret
        self._replica_id = replica_id
        self._block_size = engine.executor.block_size
        self._connections: dict[int, _Connection] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._next_connection = 0
        self._loop = asyncio.get_running_loop()
        self.engine_thread = EngineThread(engine, self._deliver)
        self._server: asyncio.Server | None = None
        self._beat: asyncio.Task[None] | None = None
        self._block_hashes: set[bytes] = set()  # of the cached blocks, by the KV events up to now
        self._draining = False
        self._num_probes = 0
        self._state = StateShard()

    async def start(self, host: str) -> tuple[str, int]:
        """Listens on `host`, any free port. Returns the address."""
        self.engine_thread.start()
        self._server = await asyncio.start_server(self._serve, host, 0, limit=1 << 20)
        self._beat = asyncio.create_task(self._send_heartbeats())
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    def drain(self) -> None:
        """Drains: tells every ingress, also those that connect later, to migrate its streams."""
        self._draining = True
        for connection in self._connections.values():
            connection.send(Drain())

    def _disconnect_all(self) -> None:
        """Ends every connection after the engine has failed: its requests migrate, and one that fails MAX_FAILURES
        engines ends with an error.
        """
        self._draining = True
        for connection in list(self._connections.values()):
            connection.writer.transport.abort()

    @property
    def num_open(self) -> int:
        """The number of requests in flight of all ingresses."""
        return sum(len(connection.open) for connection in self._connections.values())

    async def probe(self) -> None:
        """Returns when the engine has finished a step from now on. Raises EngineFailed when it cannot any more.

        A busy engine is observed, an idle one computes one token for the probe.
        """
        thread = self.engine_thread
        request = None
        if thread.status.num_running == 0:
            self._num_probes += 1
            request = GenerateRequest(
                request_id=f"{PROBE}:{self._num_probes}",
                model=thread.status.model,
                inputs=(TokenSpan((0,)),),
                sampling=SamplingParams(max_tokens=1, temperature=0.0),
            )
            thread.send(SubmitToEngine(request))
        num_steps = thread.num_steps
        while thread.num_steps == num_steps and thread.failure is None:
            await asyncio.sleep(0.01)
        if thread.failure is not None:
            raise EngineFailed(thread.failure)

    async def close(self) -> None:
        """Stops listening, ends the connections and the engine's thread."""
        if self._beat is not None:
            self._beat.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections.values()):
            connection.writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.to_thread(self.engine_thread.close)

    # -- one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self._next_connection
        self._next_connection += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            theirs, ours = await asyncio.wait_for(self._shake_hands(reader, writer), self._config.connect_timeout_s)
            connection = self._connections[number] = _Connection(number, writer, ours, self._config.max_frame_bytes)
            # now, not earlier: every later report with KV events goes to this connection, too
            status, block_hashes = self.engine_thread.status, tuple(self._block_hashes)
            connection.send(Welcome(self._replica_id, self._block_size, status, block_hashes))
            if self._draining:
                connection.send(Drain())
            await self._run_command(connection, reader, theirs)
        except WireError as error:
            logger.warning("closed a connection: %s", error)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass
        finally:
            self._drop_connection(number)
            self._serving.discard(task)
            writer.transport.abort()

    async def _shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Seal, Seal]:
        """The MAC seals of the ingress's frames and of our own."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        writer.write(encode(Challenge(PROTOCOL_VERSION, nonce)))
        hello = await read_frame(reader, msgspec.msgpack.Decoder(Hello), MAX_HELLO_BYTES)
        if hello.version != PROTOCOL_VERSION:
            raise WireError(f"the ingress speaks version {hello.version}, we speak {PROTOCOL_VERSION}")
        if not hmac.compare_digest(hello.proof, prove(self._secret, b"ingress", nonce, hello.nonce)):
            raise WireError("the ingress does not know the secret")
        logger.info("ingress %s connected", hello.ingress_id)
        theirs, ours = (Seal(self._secret, side, nonce, hello.nonce) for side in (b"ingress", b"replica"))
        return theirs, ours

    async def _run_command(self, connection: "_Connection", reader: asyncio.StreamReader, seal: Seal) -> None:
        decoder = msgspec.msgpack.Decoder(FromIngress)
        while True:
            # ingresses send heartbeats too: a silent one is gone, whatever TCP's state is
            frame = await asyncio.wait_for(
                read_frame(reader, decoder, self._config.max_frame_bytes, seal), 4 * self._config.dead_s
            )
            match frame:
                case Submit(request):
                    if self._draining:
                        rejection = Rejection(request.request_id, "Unavailable", "the replica is going away")
                        connection.send(Report(EngineOutputs((), (rejection,), (), self.engine_thread.status)))
                        continue
                    connection.open.add(request.request_id)
                    ours = msgspec.structs.replace(request, request_id=f"{connection.number}:{request.request_id}")
                    if self._observer is not None:
                        self._observer.submitted(ours.request_id, ours)
                    logger.debug("added request %s%s", request.request_id, _trace_of(request))
                    self.engine_thread.send(SubmitToEngine(ours))
                case Stop(request_id, index):
                    self.engine_thread.send(Abort(f"{connection.number}:{request_id}", index))
                    if index is None:
                        connection.open.discard(request_id)
                case Ask(request_ids):
                    for request_id in request_ids:
                        self.engine_thread.send(AskEngine(f"{connection.number}:{request_id}"))
                case Heartbeat():
                    pass
                case Fetch(call, name):
                    connection.send(Fetched(call, self._state.get(name)))
                case Keep(call, name, entry, limits):
                    connection.send(Kept(call, self._state.put(name, entry, limits)))
                case ListEntries(call, kind):
                    connection.send(Entries(call, tuple(self._state.versions(kind))))
                case _:
                    raise WireError(f"{type(frame).__name__} has no place here")

    def _drop_connection(self, number: int) -> None:
        connection = self._connections.pop(number, None)
        for request_id in connection.open if connection else ():
            self.engine_thread.send(Abort(f"{number}:{request_id}"))

    # -- reports of the engine

    def _deliver(self, report: EngineOutputs) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._distribute, report)

    def _distribute(self, report: EngineOutputs) -> None:
        """Sends each ingress its part of a step's report, in one frame. KV events go to all."""
        if self._observer is not None:
            self._observer.reported(report)
        self._block_hashes.difference_update(report.removed_blocks)
        self._block_hashes.update(report.stored_blocks)
        parts: dict[int, _Part] = defaultdict(_Part)
        for request_id in report.accepted:
            number, theirs = _split(request_id)
            parts[number].accepted.append(theirs)
        for rejection in report.rejected:
            number, theirs = _split(rejection.request_id)
            parts[number].rejected.append(msgspec.structs.replace(rejection, request_id=theirs))
        for chunk in report.chunks:
            number, theirs = _split(chunk.request_id)
            parts[number].chunks.append(msgspec.structs.replace(chunk, request_id=theirs))
        for state in report.states:
            number, theirs = _split(state.request_id)
            parts[number].states.append(msgspec.structs.replace(state, request_id=theirs))
        concerned = self._connections if report.stored_blocks or report.removed_blocks else parts
        for number in list(concerned):
            connection = self._connections.get(number)
            if connection is not None:
                part = parts[number]
                connection.open.difference_update(rejection.request_id for rejection in part.rejected)
                connection.report(
                    msgspec.structs.replace(
                        report,
                        accepted=tuple(part.accepted),
                        rejected=tuple(part.rejected),
                        chunks=tuple(part.chunks),
                        states=tuple(map(connection.state, part.states)),
                    )
                )

        if self.engine_thread.failure is not None and not self._draining:
            self.drain()

    async def _send_heartbeats(self) -> None:
        watchdog = Watchdog(self.engine_thread, self._config.heartbeat_s)
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            ages = watchdog.look(time.monotonic())
            if self._observer is not None:
                self._observer.heartbeat(self.engine_thread.status)
            for connection in self._connections.values():
                connection.send(Heartbeat(self.engine_thread.status, ages))
            if watchdog.alarm is not None and self.engine_thread.failure is None:
                self.engine_thread.declare_hung(watchdog.alarm)
                logger.error("%s; streams are moved to other replicas", watchdog.alarm)
                self._disconnect_all()


class _Part(msgspec.Struct):
    """The part of a step's report that is one ingress's."""

    accepted: list[str] = []
    rejected: list[Rejection] = []
    chunks: list[RequestOutput] = []
    states: list[RequestState] = []


class _Connection:
    """The connection of one ingress."""

    def __init__(self, number: int, writer: asyncio.StreamWriter, seal: Seal, max_frame_bytes: int) -> None:
        self.number = number
        self.writer = writer
        self._seal = seal
        self.open: set[str] = set()  # the ingress's request ids, until it stops them
        self._max_frame_bytes = max_frame_bytes

    def state(self, reported: RequestState) -> RequestState:
        """The state of a request: an accepted one that the engine does not know has finished."""
        if reported.state == "unknown" and reported.request_id in self.open:
            return msgspec.structs.replace(reported, state="finished")
        return reported

    def send(self, frame: FromReplica) -> None:
        transport = self.writer.transport
        if transport.is_closing():
            return
        self._write(encode(frame))

    def report(self, report: EngineOutputs) -> None:
        """Sends a report, split into several frames where one would exceed the limit and end the connection."""
        if self.writer.transport.is_closing():
            return
        frame = encode(Report(report))
        if len(frame) <= self._max_frame_bytes:
            self._write(frame)
            return
        nothing: dict[str, tuple[()]] = {"accepted": (), "rejected": (), "states": ()}
        # removed blocks come before stored ones, as in an unsplit report
        for name, later in (
            ("removed_blocks", ("stored_blocks", "chunks")),
            ("stored_blocks", ("chunks",)),
            ("chunks", ()),
        ):
            items = getattr(report, name)
            if len(items) > 1:
                half = len(items) // 2
                first = {name: items[:half], **dict.fromkeys(later, ()), "states": ()}
                earlier = [
                    other for other in ("removed_blocks", "stored_blocks") if other != name and other not in later
                ]
                rest = {name: items[half:], **nothing, "states": report.states, **dict.fromkeys(earlier, ())}
                self.report(msgspec.structs.replace(report, **first))
                self.report(msgspec.structs.replace(report, **rest))
                return
        ids = ", ".join(chunk.request_id for chunk in report.chunks)
        why = "a report of %d bytes is not sent, %d are allowed; request %s"
        logger.warning(why, len(frame), self._max_frame_bytes, ids or "-")
        lost = (msgspec.structs.replace(one, tokens=(), logprobs=None, prompt_logprobs=None) for one in report.chunks)
        why = f"the output takes more than {self._max_frame_bytes} bytes (wire.max_frame_bytes)"
        ends = tuple(msgspec.structs.replace(chunk, finish_reason="error", error=why) for chunk in lost)
        self.report(msgspec.structs.replace(report, chunks=ends))

    def _write(self, frame: bytes) -> None:
        transport = self.writer.transport
        self.writer.write(frame + self._seal.tag(frame))
        if transport.get_write_buffer_size() > 4 * self._max_frame_bytes:
            logger.warning("an ingress does not read; its connection ends")
            transport.abort()


def _trace_of(request: GenerateRequest) -> str:
    return f", trace {request.traceparent.split('-')[1]}" if request.traceparent else ""


def _split(request_id: str) -> tuple[int, str]:
    number, _, theirs = request_id.partition(":")
    return int(number), theirs
