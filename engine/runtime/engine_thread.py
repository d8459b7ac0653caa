"""The engine loop in a thread of its own: commands in from any thread, one report out per iteration."""

import queue
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from engine.engine import Engine
from engine.errors import MantaError, Overloaded, RequestError
from engine.parallel.worker_commands import RankHeartbeat
from engine.runtime.step_times import StepTimes
from engine.types import EngineOutputs, EngineStatus, GenerateRequest, Rejection, RequestOutput, RequestState

__all__ = ["Abort", "Ask", "EngineThread", "Submit"]


class Submit(msgspec.Struct, frozen=True):
    request: GenerateRequest


class _Prepared(msgspec.Struct, frozen=True):
    """A Submit again, once its grammar is compiled."""

    request: GenerateRequest


class Abort(msgspec.Struct, frozen=True):
    request_id: str
    index: int | None = None  # None: every choice


class Ask(msgspec.Struct, frozen=True):
    """Asks for a request's state. It is in the next report, after every output made before."""

    request_id: str


HUNG_JOIN_S = 1.0

Command = Submit | Abort | Ask | _Prepared


class EngineThread:
    """Owns the engine from `start` on. `deliver` is called in the engine's thread and must not block.

    A grammar is compiled in another thread, and its request submitted after that: steps do not wait for it.

    If the engine raises, in any call, every request ends with an error output, `failure` says why, and nothing is
    accepted any more.
    """

    def __init__(self, engine: Engine, deliver: Callable[[EngineOutputs], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._preparing: dict[str, GenerateRequest] = {}  # by request id
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar-compile")
        self.failure: str | None = None
        self.num_steps = 0
        self.is_in_step = False  # in step number `num_steps`, not waiting for commands
        self._is_hung = False
        self._step_times = StepTimes()
        self.status: EngineStatus = engine.status()

    def start(self) -> None:
        self._thread.start()

    def send(self, command: Command) -> None:
        """Queues a command; never blocks. A later report says whether a Submit was accepted."""
        self._inbox.put(command)

    @property
    def limit_s(self) -> float:
        """How long the running step may take, in seconds, before it counts as hung."""
        return self._step_times.limit_s(self._engine.num_step_tokens)

    @property
    def is_step_known(self) -> bool:
        """Whether a step as large as the running one has finished before."""
        return self._step_times.knows(self._engine.num_step_tokens)

    def rank_heartbeats(self) -> tuple[RankHeartbeat, ...]:
        """The last heartbeat of each rank from 1 on."""
        return self._engine.rank_heartbeats()

    def declare_hung(self, message: str) -> None:
        """Declares the engine hung: its step is abandoned, and nothing more is accepted. In any thread."""
        self._is_hung = True
        self.failure = self.failure or message
        self._engine.lose_ranks()

    def close(self) -> None:
        """Ends the thread after its running step; open requests end with "abort". A hung thread is left to the end of
        the process.
        """
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join(HUNG_JOIN_S if self._is_hung else None)

    def _run(self) -> None:
        engine = self._engine
        open_ = True
        while open_:
            commands = self._take_commands(wait=not engine.has_work)
            if None in commands:
                open_ = False
            turn = _Turn()
            try:
                for command in commands:
                    self._run_command(command, turn)
                if open_:
                    turn.chunks += self._step()
            except BaseException as error:  # also a Rust panic, which is no Exception: every request must end
                traceback.print_exc()
                self.failure = self.failure or f"{type(error).__name__}: {error}"
                turn.chunks += engine.fail("the engine failed")
                asked = [one.request.request_id for one in commands if isinstance(one, Submit | _Prepared)]
                lost = dict.fromkeys(id_ for id_ in (*asked, *self._preparing) if not turn.has_answered(id_))
                turn.rejected += [Rejection(id_, "Unavailable", "the engine has failed") for id_ in lost]
                self._preparing.clear()
            if not open_:
                turn.chunks += engine.fail("the engine is shutting down")
                ending = "the engine is shutting down"
                turn.rejected += [Rejection(id_, "Unavailable", ending) for id_ in self._preparing]
                self._preparing.clear()
            self.num_steps += 1
            self.status = engine.status()
            stored_blocks, removed_blocks = engine.scheduler.blocks.take_kv_events()
            states = tuple(self._state(one.request_id) for one in commands if isinstance(one, Ask))
            if turn.accepted or turn.rejected or turn.chunks or stored_blocks or removed_blocks or states:
                requests = tuple(turn.accepted), tuple(turn.rejected), tuple(turn.chunks)
                self._deliver(EngineOutputs(*requests, self.status, stored_blocks, removed_blocks, states))
        self._compiler.shutdown(cancel_futures=True)
        engine.close()

    def _step(self) -> list[RequestOutput]:
        began_s = time.monotonic()
        self.is_in_step = self._engine.has_work
        try:
            return self._engine.step()
        finally:
            if self.is_in_step:
                self._step_times.note(self._engine.num_step_tokens, time.monotonic() - began_s)
            self.is_in_step = False

    def _run_command(self, command: Command | None, turn: "_Turn") -> None:
        match command:
            case Submit(request) if self._is_to_be_prepared(request):
                self._preparing[request.request_id] = request
                self._compiler.submit(self._prepare, request)
            case Submit(request):
                self._answer(request, turn)
            case _Prepared(request):
                if self._preparing.get(request.request_id) is request:  # else aborted meanwhile
                    del self._preparing[request.request_id]
                    self._answer(request, turn)
            case Abort(request_id, index):
                if index is None:
                    self._preparing.pop(request_id, None)
                turn.chunks += self._engine.abort(request_id, index)

    def _is_to_be_prepared(self, request: GenerateRequest) -> bool:
        return (
            self.failure is None
            and request.request_id not in self._preparing
            and not self._engine.is_running(request.request_id)
            and self._engine.needs_preparing(request)
        )

    def _prepare(self, request: GenerateRequest) -> None:
        """Runs in the compiler's thread. Errors are left to the engine, which compiles the grammar again."""
        try:
            self._engine.prepare(request)
        except Exception:  # of any kind
            traceback.print_exc()
        finally:
            self._inbox.put(_Prepared(request))

    def _answer(self, request: GenerateRequest, turn: "_Turn") -> None:
        rejection = self._submit(request)
        if rejection is None:
            turn.accepted.append(request.request_id)
        else:
            turn.rejected.append(rejection)

    def _state(self, request_id: str) -> RequestState:
        is_known = self._engine.is_running(request_id) or request_id in self._preparing
        return RequestState(request_id, "running" if is_known else "unknown")

    def _take_commands(self, wait: bool) -> list[Command | None]:
        commands = [self._inbox.get()] if wait else []
        while True:
            try:
                commands.append(self._inbox.get_nowait())
            except queue.Empty:
                return commands

    def _submit(self, request: GenerateRequest) -> Rejection | None:
        if self.failure is not None:
            return Rejection(request.request_id, "Unavailable", "the engine has failed")
        if request.request_id in self._preparing:
            return Rejection(request.request_id, "RequestError", "a request with this id is running", "request_id")
        try:
            self._engine.submit(request)
        except RequestError as error:
            return Rejection(request.request_id, type(error).__name__, str(error), error.param)
        except Overloaded as error:
            return Rejection(request.request_id, "Overloaded", str(error), None, error.retry_after_s)
        except MantaError as error:
            return Rejection(request.request_id, "Unavailable", str(error))
        return None


class _Turn:
    """The results of one iteration of the loop."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.rejected: list[Rejection] = []
        self.chunks: list[RequestOutput] = []

    def has_answered(self, request_id: str) -> bool:
        return request_id in self.accepted or any(one.request_id == request_id for one in self.rejected)
