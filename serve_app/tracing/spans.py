"""From the record of a request to its spans: names, times and GenAI attributes (OpenTelemetry's, and vLLM's)."""

from collections.abc import Iterator

import msgspec

from engine.types import Placement
from serve_app.logs.answer_record import AnswerRecord, Leg, Migration
from serve_app.logs.request_record import RequestFacts, RequestRecord

__all__ = ["Attributes", "Event", "Span", "child_spans", "root_attributes"]

Attributes = dict[str, str | int | float | bool | tuple[str, ...]]

OPERATIONS = {"chat": "chat", "responses": "chat", "messages": "chat", "completions": "text_completion"}
MAX_REASON_CHARS = 200


class Event(msgspec.Struct, frozen=True):
    name: str
    at_s: float
    attributes: Attributes = {}


class Span(msgspec.Struct, frozen=True):
    """A child of the request's span. Times are of the monotonic clock."""

    name: str
    began_s: float
    ended_s: float
    attributes: Attributes = {}
    events: tuple[Event, ...] = ()


def root_attributes(record: RequestRecord, facts: RequestFacts) -> Attributes:
    usage = facts.usage
    attributes: Attributes = {
        "http.request.method": facts.method,
        "http.response.status_code": facts.status,
        "gen_ai.request.id": facts.request_id,
    }
    if facts.route:
        attributes["http.route"] = facts.route
    if facts.error:
        attributes["error.type"] = facts.error
    if facts.key:
        attributes["manta.key"] = facts.key
    if facts.api:
        attributes["gen_ai.operation.name"] = OPERATIONS[facts.api]
        attributes["gen_ai.provider.name"] = "manta"
    if facts.model:
        attributes["gen_ai.request.model"] = attributes["gen_ai.response.model"] = facts.model
    if record.answer is None or not facts.api:
        return attributes
    attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
    attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
    attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    if usage.reasoning_tokens is not None:
        attributes["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    if facts.finish_reasons:
        attributes["gen_ai.response.finish_reasons"] = facts.finish_reasons
    attributes["manta.migrations"] = usage.num_migrations
    return attributes | _latencies(record.answer, facts)


def child_spans(record: RequestRecord) -> Iterator[Span]:
    for one in record.steps:
        yield Span(
            one.name, one.began_s, one.ended_s, {f"manta.{name}": value for name, value in one.attributes.items()}
        )
    answer = record.answer
    if answer is None:
        return
    for placement in answer.placements:
        yield _route(placement)
    for leg in answer.legs:
        yield from _of_leg(leg)
    for migration in answer.migrations:
        yield _migrate(migration)


def _latencies(answer: AnswerRecord, facts: RequestFacts) -> Attributes:
    """vLLM's names; of the first choice's first replica, seconds."""
    found: Attributes = {"gen_ai.latency.e2e": facts.duration_s}
    if facts.first_token_s is not None:
        found["gen_ai.latency.time_to_first_token"] = facts.first_token_s
    if answer.legs:
        leg, last_s = answer.legs[0], max(one.last_s for one in answer.legs)
        found["gen_ai.latency.time_in_queue"] = leg.queued_s
        found["gen_ai.latency.time_in_model_prefill"] = max(0.0, leg.first_s - leg.accepted_s - leg.queued_s)
        found["gen_ai.latency.time_in_model_decode"] = last_s - leg.first_s
        found["gen_ai.latency.time_in_model_inference"] = max(0.0, last_s - leg.accepted_s - leg.queued_s)
    return found


def _route(placement: Placement) -> Span:
    attributes: Attributes = {
        "manta.replica": placement.replica_id,
        "manta.uncached_tokens": placement.num_uncached_tokens,
        "manta.refusals": placement.num_refused,
    }
    submit = Event("submit", placement.submitted_s)
    return Span("route", placement.began_s, placement.accepted_s, attributes, (submit,))


def _of_leg(leg: Leg) -> Iterator[Span]:
    of: Attributes = {"manta.replica": leg.replica_id, "manta.choice": leg.index}
    started_s = min(leg.accepted_s + leg.queued_s, leg.first_s)
    early = tuple(_events_of(leg, leg.accepted_s, leg.first_s))
    late = tuple(_events_of(leg, leg.first_s, float("inf")))
    yield Span("queue", leg.accepted_s, started_s, of)
    yield Span("prefill", started_s, leg.first_s, of | {"manta.cached_tokens": leg.cached_tokens}, early)
    yield Span("decode", leg.first_s, leg.last_s, of | {"gen_ai.usage.output_tokens": leg.num_tokens}, late)


def _events_of(leg: Leg, began_s: float, ended_s: float) -> Iterator[Event]:
    """The chunks and preemptions in [began_s, ended_s)."""
    for at_s, num_tokens in leg.chunks:
        if began_s <= at_s < ended_s:
            yield Event("chunk", at_s, {"manta.tokens": num_tokens})
    for at_s in leg.preemptions:
        if began_s <= at_s < ended_s:
            yield Event("preempted", at_s)


def _migrate(migration: Migration) -> Span:
    placement, began_s = migration.placement, migration.last_s or migration.placement.began_s
    attributes: Attributes = {
        "manta.from_replica": placement.lost_id,
        "manta.to_replica": placement.replica_id,
        "manta.reason": placement.lost_why[:MAX_REASON_CHARS],
        "manta.planned": placement.is_planned,
        "manta.silence_s": migration.first_s - began_s,
    }
    return Span("migrate", began_s, migration.first_s, attributes)
