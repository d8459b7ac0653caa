"""The access log: one line for each request that has ended (api.access_log)."""

import logging

from serve_app.logs.request_record import PROBES, RequestFacts

__all__ = ["AccessLog", "fields_of"]

logger = logging.getLogger(__name__)


class AccessLog:
    """A RequestSink."""

    def on_request(self, facts: RequestFacts) -> None:
        # a probe that finds nothing wrong is no news
        level = logging.DEBUG if facts.route in PROBES and facts.status < 400 else logging.INFO
        if not logger.isEnabledFor(level):
            return
        fields = fields_of(facts)
        shown = " ".join(f"{name}={value}" for name, value in fields.items() if name not in ("method", "route"))
        logger.log(level, "%s %s %s", facts.method, facts.route or "-", shown, extra={"fields": fields})


def fields_of(facts: RequestFacts) -> dict[str, str | int | float]:
    """What is known of the request, under the names of its line."""
    usage = facts.usage
    fields: dict[str, str | int | float | None] = {
        "method": facts.method,
        "route": facts.route or "-",
        "status": facts.status,
        "error": facts.error or None,
        "model": facts.model or None,
        "key": facts.key or None,
        "prompt_tokens": usage.prompt_tokens or None,
        "cached_tokens": usage.cached_tokens if usage.prompt_tokens else None,
        "completion_tokens": usage.completion_tokens if usage.prompt_tokens else None,
        "first_token_s": round(facts.first_token_s, 4) if facts.first_token_s is not None else None,
        "duration_s": round(facts.duration_s, 4),
        "finish_reason": ",".join(facts.finish_reasons) or None,
        "migrations": usage.num_migrations if usage.prompt_tokens else None,
        "request_id": facts.request_id or None,
        "trace_id": facts.trace_id or None,
    }
    return {name: value for name, value in fields.items() if value is not None}
