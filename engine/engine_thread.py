"""Runs an engine in a thread of its own: commands go in from any thread, one report comes out per turn of its loop."""

import queue
import threading
import time
import traceback
from collections.abc import Callable

import msgspec

from engine.engine import Engine
from engine.errors import MantaError, Overloaded, RequestError
from engine.types import EngineStatus, GenerateRequest, Refusal, RequestState, StepReport, TokenChunk

__all__ = ["Abort", "Ask", "EngineThread", "Submit"]


class Submit(msgspec.Struct, frozen=True):
    request: GenerateRequest


class Abort(msgspec.Struct, frozen=True):
    request_id: str
    index: int | None = None  # None: every choice


class Ask(msgspec.Struct, frozen=True):
    """Is this request still running? The next report says so, after every chunk that was made before."""

    request_id: str


Command = Submit | Abort | Ask


class EngineThread:
    """Owns the engine from `start` on. `deliver` is called in the engine's thread and must return at once.

    When the engine raises, whatever it was asked to do, every request ends with an error chunk, `failure` says why, and
    nothing is accepted any more.
    """

    def __init__(self, engine: Engine, deliver: Callable[[StepReport], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.failure: str | None = None
        self.last_turn_s = time.monotonic()  # when the loop last came round
        self.num_steps = 0
        self.status: EngineStatus = engine.status()

    def start(self) -> None:
        self._thread.start()

    def send(self, command: Command) -> None:
        """Never blocks. What becomes of a Submit is in a later report."""
        self._inbox.put(command)

    def close(self) -> None:
        """Ends the thread after the step it is in; requests that still run get an abort chunk."""
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join()

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
                    self._obey(command, turn)
                if open_:
                    turn.chunks += engine.step()
            except BaseException as error:  # a panic in compiled code is no Exception: nobody is left waiting by it
                traceback.print_exc()
                self.failure = f"{type(error).__name__}: {error}"
                turn.chunks += engine.fail("the engine failed")
                turn.refused += [
                    Refusal(one.request.request_id, "Unavailable", "the engine has failed")
                    for one in commands
                    if isinstance(one, Submit) and not turn.has_answered(one.request.request_id)
                ]
            if not open_:
                turn.chunks += engine.fail("the engine is shutting down")
            self.num_steps += 1
            self.last_turn_s = time.monotonic()
            self.status = engine.status()
            published, forgotten = engine.scheduler.blocks.take_changes()
            states = tuple(self._state(one.request_id) for one in commands if isinstance(one, Ask))
            if turn.accepted or turn.refused or turn.chunks or published or forgotten or states:
                told = tuple(turn.accepted), tuple(turn.refused), tuple(turn.chunks)
                self._deliver(StepReport(*told, self.status, published, forgotten, states))
        engine.close()

    def _obey(self, command: Command | None, turn: "_Turn") -> None:
        match command:
            case Submit(request):
                refusal = self._submit(request)
                if refusal is None:
                    turn.accepted.append(request.request_id)
                else:
                    turn.refused.append(refusal)
            case Abort(request_id, index):
                turn.chunks += self._engine.abort(request_id, index)

    def _state(self, request_id: str) -> RequestState:
        return RequestState(request_id, "running" if self._engine.is_running(request_id) else "unknown")

    def _take_commands(self, wait: bool) -> list[Command | None]:
        commands = [self._inbox.get()] if wait else []
        while True:
            try:
                commands.append(self._inbox.get_nowait())
            except queue.Empty:
                return commands

    def _submit(self, request: GenerateRequest) -> Refusal | None:
        if self.failure is not None:
            return Refusal(request.request_id, "Unavailable", "the engine has failed")
        try:
            self._engine.submit(request)
        except RequestError as error:
            return Refusal(request.request_id, type(error).__name__, str(error), error.param)
        except Overloaded as error:
            return Refusal(request.request_id, "Overloaded", str(error), None, error.retry_after_s)
        except MantaError as error:
            return Refusal(request.request_id, "Unavailable", str(error))
        return None


class _Turn:
    """What comes out of one turn of the loop."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.refused: list[Refusal] = []
        self.chunks: list[TokenChunk] = []

    def has_answered(self, request_id: str) -> bool:
        return request_id in self.accepted or any(one.request_id == request_id for one in self.refused)
