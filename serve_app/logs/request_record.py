"""The record of a request: what becomes known of it on its way, and its facts once it has ended."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec
from fastapi import Request

from serve_app.generation.usage import Usage
from serve_app.logs.answer_record import AnswerRecord

__all__ = ["PROBES", "RequestFacts", "RequestRecord", "RequestSink", "Step", "TraceHandle", "record_of", "step"]

logger = logging.getLogger(__name__)

MAX_STEPS = 64  # of one request that are traced
PROBES = ("/health", "/ping", "/load", "/metrics")  # asked for every few seconds: not traced
CLIENT_GONE = "ClientDisconnected"
APIS = {
    "/v1/chat/completions": "chat",
    "/v1/chat/completions/batch": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One request that has ended, and the answer to it."""

    time: float  # when it came, in unix seconds
    request_id: str
    trace_id: str  # "": it is not traced
    method: str
    route: str  # as it is declared; "": there is no such route
    api: str  # chat, completions, responses, messages; "": another route
    status: int  # 499: the client left before the status was sent
    error: str  # its type; "": none
    model: str
    key: str  # the API key's name; "": none was needed
    usage: Usage
    first_token_s: float | None  # from the request
    duration_s: float  # to the end of the answer, also where the client has left earlier
    finish_reasons: tuple[str, ...]  # of each choice that has ended


class RequestSink(Protocol):
    def on_request(self, facts: RequestFacts) -> None:
        """May not block."""
        ...


class TraceHandle(Protocol):
    """A request's trace that is recorded."""

    @property
    def trace_id(self) -> str: ...
    @property
    def traceparent(self) -> str: ...
    def end(self, record: "RequestRecord", facts: RequestFacts) -> None: ...


class Step(msgspec.Struct, frozen=True):
    """A step of the ingress's own work on a request. Times are of the monotonic clock."""

    name: str
    began_s: float
    ended_s: float
    attributes: dict[str, str | int | bool] = {}


class RequestRecord:
    """Lives from the request's first byte until both it and its answer have ended."""

    def __init__(self, method: str, sinks: Sequence[RequestSink]) -> None:
        self.began_s, self.unix_s = time.monotonic(), time.time()
        self.method, self.route, self.request_id = method, "", ""
        self.status, self.is_sent, self.error = 0, False, ""
        self.model, self.key = "", ""
        self.trace: TraceHandle | None = None
        self.steps: list[Step] = []  # of a traced request
        self.answer: AnswerRecord | None = None
        self._sinks = sinks
        self._num_open = 1  # the request, and its answer

    def begin_answer(self, *, is_batch: bool) -> AnswerRecord:
        """The observer of its answer; its end and the request's are awaited from then on.

        is_batch   the answer has several requests to the engine
        """
        self.answer = AnswerRecord(self, is_traced=self.trace is not None, is_batch=is_batch)
        return self.answer

    def add_steps(self, steps: Sequence[tuple[str, float, float]]) -> None:
        room = MAX_STEPS - len(self.steps)
        self.steps += [Step(*one) for one in steps[:room]]

    def hold(self) -> None:
        self._num_open += 1

    def release(self) -> None:
        """Of the request, and of each that holds it. The last one writes what there is to write."""
        self._num_open -= 1
        if self._num_open:
            return
        facts = self.facts()
        for sink in self._sinks:
            try:
                sink.on_request(facts)
            except Exception as error:  # what is written about a request does not fail it
                logger.error("a request could not be written down: %r", error)
        if self.trace is not None:
            self.trace.end(self, facts)

    def facts(self) -> RequestFacts:
        answer, error, now_s = self.answer, self.error, time.monotonic()
        if answer is not None:
            error = error or answer.error
        is_over = self.is_sent or (answer is not None and answer.is_complete)
        return RequestFacts(
            time=self.unix_s,
            request_id=self.request_id,
            trace_id=self.trace.trace_id if self.trace is not None else "",
            method=self.method,
            route=self.route,
            api=APIS.get(self.route, "") if self.method == "POST" else "",
            status=self.status or 499,
            error=error or ("" if is_over else CLIENT_GONE),
            model=self.model,
            key=self.key,
            usage=answer.usage if answer is not None else Usage(0, 0, 0),
            first_token_s=answer.first_s - self.began_s if answer is not None and answer.first_s else None,
            duration_s=now_s - self.began_s,
            finish_reasons=tuple(answer.finish_reasons) if answer is not None else (),
        )


def record_of(request: Request) -> RequestRecord | None:
    """None: nothing is written about requests."""
    return getattr(request.state, "record", None)


@contextmanager
def step(record: RequestRecord | None, name: str, **attributes: str | int | bool) -> Iterator[None]:
    """The block is a step of a traced request, also where it raises."""
    if record is None or record.trace is None:
        yield
        return
    began_s = time.monotonic()
    try:
        yield
    finally:
        if len(record.steps) < MAX_STEPS:
            record.steps.append(Step(name, began_s, time.monotonic(), attributes))
