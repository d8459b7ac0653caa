"""Runs an engine in a thread of its own: commands go in from any thread, one report comes out per turn of its loop."""

import queue
import threading
import time
import traceback
from collections.abc import Callable

import msgspec

from engine.engine import Engine
from engine.errors import MantaError, Overloaded, RequestError
from engine.types import EngineStatus, GenerateRequest, Refusal, StepReport

__all__ = ["Abort", "EngineThread", "Submit"]


class Submit(msgspec.Struct, frozen=True):
    request: GenerateRequest


class Abort(msgspec.Struct, frozen=True):
    request_id: str
    index: int | None = None  # None: every choice


class EngineThread:
    """Owns the engine from `start` on. `deliver` is called in the engine's thread and must return at once.

    When a step raises, every request ends with an error chunk, `failure` says why, and nothing is accepted any more.
    """

    def __init__(self, engine: Engine, deliver: Callable[[StepReport], None]) -> None:
        self._engine = engine
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[Submit | Abort | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.failure: str | None = None
        self.last_turn_s = time.monotonic()  # when the loop last came round
        self.num_steps = 0
        self.status: EngineStatus = engine.status()

    def start(self) -> None:
        self._thread.start()

    def send(self, command: Submit | Abort) -> None:
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
            accepted, refused, chunks = [], [], []
            for command in commands:
                match command:
                    case Submit(request):
                        refusal = self._submit(request)
                        if refusal is None:
                            accepted.append(request.request_id)
                        else:
                            refused.append(refusal)
                    case Abort(request_id, index):
                        chunks += engine.abort(request_id, index)
            if open_:
                try:
                    chunks += engine.step()
                except Exception as error:  # whatever the device or the model raises: nobody is left waiting
                    traceback.print_exc()
                    self.failure = f"{type(error).__name__}: {error}"
                    chunks += engine.fail("the engine failed")
            else:
                chunks += engine.fail("the engine is shutting down")
            self.num_steps += 1
            self.last_turn_s = time.monotonic()
            self.status = engine.status()
            published, forgotten = engine.scheduler.blocks.take_changes()
            if accepted or refused or chunks or published or forgotten:
                self._deliver(
                    StepReport(tuple(accepted), tuple(refused), tuple(chunks), self.status, published, forgotten)
                )
        engine.close()

    def _take_commands(self, wait: bool) -> list[Submit | Abort | None]:
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
