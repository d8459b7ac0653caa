"""Output queues (vLLM's RequestOutputCollector): an engine's reports become one stream per request."""

import asyncio
import time
from collections.abc import Iterator

from engine.errors import ContextTooLong, MantaError, Overloaded, RequestError, Unavailable, UnknownModel
from engine.types import EngineOutputs, Rejection, RequestOutput

__all__ = ["OutputQueue", "OutputQueues"]


class OutputQueue:
    """The unconsumed outputs of one request. Lives on one event loop."""

    def __init__(self) -> None:
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunks: asyncio.Queue[RequestOutput | MantaError] = asyncio.Queue()
        self.last_report_s = time.monotonic()  # when a report last named the request
        self.asked_s: float | None = None  # when the engine was asked for its state, if it has not answered
        self.has_failed = False  # no more outputs will come

    async def accepted(self) -> None:
        """Returns once the engine has accepted the request; raises the error of a rejection."""
        await self._accepted

    async def next(self) -> RequestOutput:
        """The next output. Raises the error with which the connection to the engine ended."""
        item = await self._chunks.get()
        if isinstance(item, MantaError):
            raise item
        return item

    def accept(self) -> None:
        if not self._accepted.done():
            self._accepted.set_result(None)

    def note_report(self) -> None:
        """Notes that the engine has reported about the request."""
        self.last_report_s, self.asked_s = time.monotonic(), None

    def refuse(self, error: MantaError) -> None:
        self.has_failed = True
        if not self._accepted.done():
            self._accepted.set_exception(error)
            self._accepted.exception()  # the consumer may be gone: do not warn
        self._chunks.put_nowait(error)

    def put(self, chunk: RequestOutput) -> None:
        self.note_report()
        self.accept()
        self._chunks.put_nowait(chunk)


class OutputQueues:
    """The open requests of one engine, by id."""

    def __init__(self) -> None:
        self._by_id: dict[str, OutputQueue] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, request_id: str) -> OutputQueue:
        if request_id in self._by_id:
            raise RequestError("a request with this id is running", param="request_id")
        output_queue = self._by_id[request_id] = OutputQueue()
        return output_queue

    def close(self, request_id: str) -> None:
        self._by_id.pop(request_id, None)

    def deliver(self, report: EngineOutputs) -> None:
        for request_id in report.accepted:
            if request_id in self._by_id:
                self._by_id[request_id].note_report()
                self._by_id[request_id].accept()
        for rejection in report.rejected:
            if rejection.request_id in self._by_id:
                self._by_id[rejection.request_id].refuse(_rejection_error(rejection))
        for chunk in report.chunks:
            if chunk.request_id in self._by_id:
                self._by_id[chunk.request_id].put(chunk)

    def get(self, request_id: str) -> OutputQueue | None:
        return self._by_id.get(request_id)

    def silent_since(self, then_s: float) -> Iterator[tuple[str, OutputQueue]]:
        """Requests without any report since `then_s`."""
        return ((id_, box) for id_, box in self._by_id.items() if box.last_report_s < then_s and not box.has_failed)

    def fail(self, error: MantaError) -> None:
        """Every open request ends with `error`."""
        for output_queue in self._by_id.values():
            output_queue.refuse(error)


def _rejection_error(rejection: Rejection) -> MantaError:
    """The error that a rejection stands for."""
    match rejection.kind:
        case "ContextTooLong":
            return ContextTooLong(rejection.message, rejection.param)
        case "UnknownModel":
            return UnknownModel(rejection.message, rejection.param)
        case "RequestError":
            return RequestError(rejection.message, rejection.param)
        case "Overloaded":
            return Overloaded(rejection.message, rejection.retry_after_s)
        case _:
            return Unavailable(rejection.message, rejection.retry_after_s)
