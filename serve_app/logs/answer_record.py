"""The record of an answer, and of a traced one the engines' times: queue, prefill and decode on each replica."""

import time
from typing import Protocol

import msgspec

from engine.errors import MantaError
from engine.types import OutputTrace, Placement
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import UsageSource
from serve_app.generation.usage import Usage

__all__ = ["AnswerRecord", "Leg", "Migration"]

MAX_LEGS = 256  # of one answer that are traced


class Holder(Protocol):
    """What is written down once the answer has ended."""

    def hold(self) -> None: ...
    def release(self) -> None: ...


class Leg(msgspec.Struct):
    """What one replica has done for one choice. Times are of this process's monotonic clock."""

    index: int  # of the choice
    replica_id: str
    accepted_s: float
    queued_s: float
    cached_tokens: int
    first_s: float  # its first output came
    last_s: float  # its last one
    num_tokens: int = 0
    chunks: list[tuple[float, int]] = []  # steps that computed several tokens: time, tokens
    preemptions: list[float] = []


class Migration(msgspec.Struct, frozen=True):
    placement: Placement
    last_s: float  # the last output of the replica before; 0: it had sent none
    first_s: float  # the first output of the next one


class AnswerRecord:
    """A StreamObserver. A delta costs a few comparisons; of a traced answer an assignment besides."""

    def __init__(self, holder: Holder, *, is_traced: bool, is_batch: bool) -> None:
        self.usage = Usage(0, 0, 0)
        self.first_s = 0.0  # 0: nothing came
        self.finish_reasons: list[str] = []
        self.is_complete, self.error = False, ""
        self.is_traced = is_traced
        self.legs: list[Leg] = []
        self.placements: list[Placement] = []  # that began none of the legs' migrations
        self.migrations: list[Migration] = []
        self._holder, self._is_batch = holder, is_batch
        self._parts: dict[str, _Part] = {}  # by the engine's request

    def on_start(self, output: UsageSource) -> None:
        self._output = output
        self._holder.hold()

    def on_delta(self, delta: ChoiceDelta) -> None:
        if not self.first_s:
            self.first_s = time.monotonic()
        if delta.finish_reason is not None:
            self.finish_reasons.append(delta.finish_reason)
        if self.is_traced:
            self._trace(delta)

    def on_end(self, *, is_complete: bool, error: Exception | None) -> None:
        self.usage, self.is_complete = self._output.usage(), is_complete
        if error is not None:
            self.error = type(error).__name__
            if isinstance(error, MantaError):
                self.placements += error.placements
        self._holder.release()

    def _trace(self, delta: ChoiceDelta) -> None:
        now_s, chunk = time.monotonic(), delta.chunk
        # the outputs of a resumable stream, which is one request, have ids of several forms
        part = self._parts.setdefault(chunk.request_id if self._is_batch else "", _Part())
        leg = part.legs.get(delta.index)
        if chunk.trace is not None:
            if chunk.trace.placements:
                self._add_placements(part, chunk.trace.placements, now_s)
                leg = None
            if leg is None and len(self.legs) < MAX_LEGS:
                leg = part.legs[delta.index] = self._new_leg(part, delta, chunk.trace, now_s)
            if leg is not None:
                accepted_s = leg.accepted_s
                leg.chunks += [(accepted_s + at_s, num_tokens) for at_s, num_tokens in chunk.trace.chunks]
                leg.preemptions += [accepted_s + at_s for at_s in chunk.trace.preemptions]
        part.last_s = now_s
        if leg is not None:
            leg.last_s = now_s
            leg.num_tokens += len(chunk.tokens)

    def _add_placements(self, part: "_Part", placements: tuple[Placement, ...], now_s: float) -> None:
        self.placements += placements
        lost = [placement for placement in placements if placement.lost_id]
        self.migrations += [Migration(placement, part.last_s, now_s) for placement in lost]
        part.replica_id = placements[-1].replica_id
        part.legs.clear()  # each choice goes on in a new one

    def _new_leg(self, part: "_Part", delta: ChoiceDelta, trace: OutputTrace, now_s: float) -> Leg:
        chunk, accepted_s = delta.chunk, now_s - trace.age_s
        leg = Leg(delta.index, part.replica_id, accepted_s, chunk.queued_s, chunk.cached_tokens, now_s, now_s)
        self.legs.append(leg)
        return leg


class _Part(msgspec.Struct):
    """One request to the engine."""

    replica_id: str = ""
    last_s: float = 0.0  # of its last output
    legs: dict[int, Leg] = {}  # the present one of each choice
