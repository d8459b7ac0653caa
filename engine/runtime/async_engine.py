"""The async engine: an EngineClient over an engine in this process, for an API server without a cluster."""

import asyncio
from collections.abc import AsyncGenerator

from engine.engine import Engine
from engine.errors import EngineFailed, UnknownModel
from engine.runtime.engine_thread import Abort, EngineThread, Submit
from engine.runtime.output_queue import OutputQueues
from engine.types import EngineOutputs, EngineStatus, GenerateRequest, RequestOutput

__all__ = ["AsyncEngine"]


class AsyncEngine:
    """Constructed inside a running event loop and used only there. `close` ends the engine's thread."""

    def __init__(self, engine: Engine) -> None:
        self._loop = asyncio.get_running_loop()
        self._output_queues = OutputQueues()
        self._model = engine.model
        self._thread = EngineThread(engine, self._deliver)
        self._thread.start()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        output_queue = self._output_queues.open(request.request_id)
        try:
            self._thread.send(Submit(request))
            await output_queue.accepted()
            open_choices = {i for i in range(request.n) if not request.resume or request.resume[i] is not None}
            while open_choices:
                chunk = await output_queue.next()
                if chunk.finish_reason is not None:
                    open_choices.discard(chunk.index)
                if chunk.finish_reason == "error":
                    raise EngineFailed(chunk.error or "the engine failed")
                yield chunk
        finally:
            self._output_queues.close(request.request_id)
            self._thread.send(Abort(request.request_id))

    def stop_choice(self, request_id: str, index: int) -> None:
        self._thread.send(Abort(request_id, index))

    async def status(self, model: str) -> EngineStatus:
        if model != self._model:
            raise UnknownModel(f"this engine serves {self._model!r}", param="model")
        if self._thread.failure is not None:
            raise EngineFailed("the engine has failed")
        return self._thread.status

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.close)

    def _deliver(self, report: EngineOutputs) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._output_queues.deliver, report)
