"""The ingress's end of the wire: one connection to one replica, with heartbeats and output queues."""

import asyncio
import enum
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from cluster.replica_state import ReplicaState
from cluster.state_shard import Entry, EntryName, StateLimits
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
from engine.errors import RequestError, Unavailable
from engine.runtime.fleet_status import MigrationReason
from engine.runtime.output_queue import OutputQueue, OutputQueues
from engine.types import GenerateRequest, RequestState, StepAges

__all__ = ["Health", "Link", "ReplicaLost", "connect"]

logger = logging.getLogger(__name__)

TOKEN_BYTES = 5  # the most that a token takes on the wire
ANSWER_BYTES = 1024  # of a frame around an entry, at most


class Health(enum.Enum):
    UP = "up"
    SUSPECT = "suspect"  # no heartbeat for suspect_s, or past half of a step's limit, or draining: no new work
    DEAD = "dead"  # closed, or no heartbeat for dead_s: its streams migrate


class ReplicaLost(Unavailable):
    """The replica of an accepted request is dead, or drains; another one can continue it."""

    def __init__(self, message: str, reason: MigrationReason = "connection lost") -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def is_planned(self) -> bool:
        return self.reason == "drained"


class Link:
    """Owns the connection to one replica and the output queues of its requests. Lives on one event loop."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        welcome: Welcome,
        seals: tuple[Seal, Seal],
        config: WireConfig,
        on_change: Callable[["Link"], None],
    ) -> None:
        """`seals`: the MACs of our own frames and of the replica's, after the Welcome."""
        self.replica_id = welcome.replica_id
        self.replica_state = ReplicaState(welcome.status, welcome.block_size, welcome.block_hashes)
        self.ages: StepAges | None = None  # of its engine and ranks, from its last heartbeat
        self.is_draining = False
        self.output_queues = OutputQueues()
        self._reader, self._writer = reader, writer
        self._seal, self._their_seal = seals
        self._config = config
        self._on_change = on_change
        self._last_heard_s = time.monotonic()
        self._is_closed = False
        self._calls: dict[int, asyncio.Future[Any]] = {}  # of state, by number
        self._num_calls = 0
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch())]

    @property
    def health(self) -> Health:
        silence_s = time.monotonic() - self._last_heard_s
        if self._is_closed or silence_s > self._config.dead_s:
            return Health.DEAD
        if self.is_draining or silence_s > self._config.suspect_s or self._is_stuck():
            return Health.SUSPECT
        return Health.UP

    def _is_stuck(self) -> bool:
        """Whether its engine may be hung: by its last heartbeat, its step has taken half of the limit."""
        return self.ages is not None and self.ages.engine_s > 0.5 * self.ages.limit_s

    def submit(self, request: GenerateRequest, num_tokens: int, block_hashes: Sequence[bytes]) -> OutputQueue:
        """Submits a request. Its output queue gets the acceptance or the rejection, then the outputs.

        num_tokens     tokens that it has to compute there, as far as is known
        block_hashes   of its prompt's full blocks
        """
        frame = encode(Submit(request))
        most = self._config.max_frame_bytes
        # a migrated request carries its outputs' tokens along
        room = 0 if request.resume else request.n * request.sampling.max_tokens * TOKEN_BYTES
        if len(frame) + room > most:
            raise RequestError(
                f"the request takes {len(frame)} bytes on its way to an engine and its answers up to {room} on a way "
                f"to another one, at most {most} together (wire.max_frame_bytes); shorten its lists of tokens and words"
            )
        output_queue = self.output_queues.open(request.request_id)
        self.replica_state.on_submit(request.request_id, num_tokens, block_hashes)
        self._write(frame)
        return output_queue

    def stop(self, request_id: str, index: int | None = None) -> None:
        """Stops one choice of a request, or all of it."""
        if index is None:
            self.output_queues.close(request_id)
            self.replica_state.on_stop(request_id)
        self._send(Stop(request_id, index))

    def close(self, why: str, reason: MigrationReason = "connection lost") -> None:
        """Ends the connection; every request that still runs there gets ReplicaLost."""
        if self._is_closed:
            return
        self._is_closed = True
        reason = "silent" if self._is_stuck() else reason  # a replica with a hung engine closes its connections
        logger.warning("lost replica %s: %s", self.replica_id, why)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._writer.transport.abort()
        self.output_queues.fail(ReplicaLost(why, reason))
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(ReplicaLost(why))
        self._on_change(self)

    async def fetch(self, name: EntryName) -> Entry:
        """What it keeps of the state under this name. Raises ReplicaLost, as do the next two."""
        return cast("Entry", await self._answer(lambda call: Fetch(call, name)))

    async def keep(self, name: EntryName, entry: Entry, limits: StateLimits) -> bool:
        """Whether the entry is newer than what was there. One that is too large for a frame is not kept."""
        if len(entry.data) + sum(map(len, name)) > self._config.max_frame_bytes - ANSWER_BYTES:
            logger.warning("an entry of %d bytes is not kept (wire.max_frame_bytes)", len(entry.data))
            return True
        return cast("bool", await self._answer(lambda call: Keep(call, name, entry, limits)))

    async def versions(self, kind: str) -> tuple[tuple[str, str, int], ...]:
        """Owner, key and version of all entries of a kind."""
        found = await self._answer(lambda call: ListEntries(call, kind))
        return cast("tuple[tuple[str, str, int], ...]", found)

    async def _answer(self, frame: Callable[[int], FromIngress]) -> Any:
        if self._is_closed:
            raise ReplicaLost(f"replica {self.replica_id} is gone")
        self._num_calls += 1
        call, answer = self._num_calls, asyncio.get_running_loop().create_future()
        self._calls[call] = answer
        try:
            self._send(frame(call))
            async with asyncio.timeout(self._config.ask_s):
                return await answer
        except TimeoutError:
            raise ReplicaLost(f"replica {self.replica_id} does not answer") from None
        finally:
            del self._calls[call]

    def _on_answer(self, call: int, value: object) -> None:
        answer = self._calls.get(call)
        if answer is not None and not answer.done():
            answer.set_result(value)

    def _send(self, frame: FromIngress) -> None:
        self._write(encode(frame))

    def _write(self, frame: bytes) -> None:
        if self._is_closed or self._writer.transport.is_closing():
            return
        self._writer.write(frame + self._seal.tag(frame))
        if self._writer.transport.get_write_buffer_size() > 4 * self._config.max_frame_bytes:
            self.close("it does not read")

    async def _listen(self) -> None:
        decoder = msgspec.msgpack.Decoder(FromReplica)
        why = "it closed the connection"
        try:
            while True:
                frame = await read_frame(self._reader, decoder, self._config.max_frame_bytes, self._their_seal)
                self._last_heard_s = time.monotonic()
                match frame:
                    case Report(report):
                        self.replica_state.on_report(report)
                        self._on_change(self)
                        self.output_queues.deliver(report)
                        for state_of_request in report.states:
                            self._apply_state(state_of_request)
                    case Heartbeat(status, ages):
                        self.ages = ages
                        if status is not None:
                            self.replica_state.status = status
                            self._on_change(self)
                    case Fetched(call, value) | Kept(call, value) | Entries(call, value):
                        self._on_answer(call, value)
                    case Drain():
                        self.is_draining = True
                        self.output_queues.fail(ReplicaLost("the replica is going away", "drained"))
                        self._on_change(self)
                    case _:
                        raise WireError(f"{type(frame).__name__} has no place here")
        except WireError as error:
            why = str(error)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception:  # a bug of ours must not look like a silent replica
            logger.exception("listening to replica %s failed", self.replica_id)
            why = "a fault in this ingress"
        self.close(why)

    async def _watch(self) -> None:
        """Sends heartbeats, and detects when the replica's stop."""
        while True:
            slept_at_s = time.monotonic()
            await asyncio.sleep(self._config.heartbeat_s)
            # time in which our own event loop was late is not the replica's silence
            self._last_heard_s += max(0.0, time.monotonic() - slept_at_s - 2 * self._config.heartbeat_s)
            silence_s = time.monotonic() - self._last_heard_s
            if silence_s > self._config.dead_s:
                self.close(f"silent for {silence_s:.2f} s", "silent")
                return
            self._send(Heartbeat())
            self._ask(time.monotonic())

    def _ask(self, now_s: float) -> None:
        """Asks the replica for the state of requests without any report for ask_s."""
        asked = []
        for request_id, output_queue in list(self.output_queues.silent_since(now_s - self._config.ask_s)):
            if output_queue.asked_s is None:
                output_queue.asked_s = now_s
                asked.append(request_id)
            elif now_s - output_queue.asked_s > self._config.answer_s:
                output_queue.refuse(
                    ReplicaLost(
                        f"replica {self.replica_id} does not say what has become of the request", "request lost"
                    )
                )
        if asked:
            self._send(Ask(tuple(asked)))

    def _apply_state(self, state_of_request: RequestState) -> None:
        output_queue = self.output_queues.get(state_of_request.request_id)
        if output_queue is None:
            return
        output_queue.note_report()
        if state_of_request.state == "running":
            output_queue.accept()
        else:  # all its outputs have been read, its end included if it was sent
            logger.info(
                "replica %s: request %s is %s there",
                self.replica_id,
                state_of_request.request_id,
                state_of_request.state,
            )
            message = f"the request is {state_of_request.state} at replica {self.replica_id}"
            output_queue.refuse(ReplicaLost(message, "request lost"))


async def connect(
    host: str,
    port: int,
    ingress_id: str,
    secret: bytes,
    config: WireConfig,
    on_change: Callable[[Link], None],
) -> Link:
    """Connects and proves the secret both ways. Raises WireError, OSError or TimeoutError."""
    async with asyncio.timeout(config.connect_timeout_s):
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
        try:
            challenge = await read_frame(reader, msgspec.msgpack.Decoder(Challenge), 4096)
            if challenge.version != PROTOCOL_VERSION:
                raise WireError(f"the replica speaks version {challenge.version}, we speak {PROTOCOL_VERSION}")
            nonce = secrets.token_bytes(NONCE_BYTES)
            proof = prove(secret, b"ingress", challenge.nonce, nonce)
            writer.write(encode(Hello(PROTOCOL_VERSION, ingress_id, nonce, proof)))
            ours, theirs = (Seal(secret, side, challenge.nonce, nonce) for side in (b"ingress", b"replica"))
            welcome = await read_frame(reader, msgspec.msgpack.Decoder(Welcome), config.max_frame_bytes, theirs)
        except asyncio.IncompleteReadError:
            writer.transport.abort()
            raise WireError("the replica closed the connection during the hello") from None
        except BaseException:
            writer.transport.abort()
            raise
    return Link(reader, writer, welcome, (ours, theirs), config, on_change)
