"""Errors of /v1/responses: OpenAI's shape, with this API's names of fields."""

import re

import msgspec
from fastapi import Request, Response

from serve_app.transport.errors import Fault

__all__ = ["render_fault", "with_own_fields"]

# the neutral request's names of fields -> this API's
FIELDS = (
    (r"\btools\.(\d+)\.function\.parameters\b", r"tools.\1.parameters"),
    (r"\btools\.(\d+)\.function\.name\b", r"tools.\1.name"),
    (r"^messages\b", "input"),
    (r"; use /v1/completions\b", ""),
    (r" or set truncate_prompt_tokens\b", " or set truncation to auto"),
)


def render_fault(request: Request, fault: Fault) -> Response | None:
    """A FaultRenderer."""
    if not any(path in request.url.path for path in ("/v1/responses", "/v1/conversations")):
        return None
    fault = with_own_fields(fault)
    return Response(fault.body(), fault.status, fault.headers, media_type="application/json")


def with_own_fields(fault: Fault) -> Fault:
    message, param = fault.message, fault.param or ""
    for neutral, named in FIELDS:
        message, param = re.sub(neutral, named, message), re.sub(neutral, named, param)
    return msgspec.structs.replace(fault, message=message, param=param or None)
