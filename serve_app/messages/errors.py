"""Errors in Anthropic's shape, with its types and status codes, and its names of fields."""

import re

import msgspec
from fastapi import Request, Response

from serve_app.messages.shapes import ErrorBody
from serve_app.transport.errors import Fault

__all__ = ["error_body", "is_anthropic", "render_fault"]

OVERLOADED = 529  # the server has no place; 429 is for a client's own limits
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# the neutral request's names of fields -> Anthropic's
FIELDS = (
    (r"\btools\.(\d+)\.function\.parameters\b", r"tools.\1.input_schema"),
    (r"\btools\.(\d+)\.function\.name\b", r"tools.\1.name"),
    (r"\bstop\b(?=:)", "stop_sequences"),
    (r"; use /v1/completions\b", ""),
    # agents know a full context by these words, and then compact the conversation
    (
        r"This model's maximum context length is (\d+) tokens.* the prompt has ([\w ]+): .*",
        r"prompt is too long: \2 tokens > \1 maximum",
    ),
)


def is_anthropic(request: Request) -> bool:
    """Whether the client expects Anthropic's shapes."""
    path = request.url.path
    return "/v1/messages" in path or ("/v1/models" in path and "anthropic-version" in request.headers)


def render_fault(request: Request, fault: Fault) -> Response | None:
    """A FaultRenderer."""
    if not is_anthropic(request):
        return None
    status = OVERLOADED if fault.status == 503 else fault.status
    request_id = getattr(request.state, "request_id", None)
    headers = fault.headers | ({"Request-Id": request_id} if request_id else {})
    return Response(error_body(fault, request_id), status, headers, media_type="application/json")


def error_body(fault: Fault, request_id: str | None) -> bytes:
    message = fault.message
    for neutral, named in FIELDS:
        message = re.sub(neutral, named, message)
    kind = TYPES.get(fault.status, "api_error" if fault.status >= 500 else "invalid_request_error")
    body: ErrorBody = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    if fault.param == "thread":  # clients recover by this code
        body["error"]["details"] = {"error_code": "thread_unsupported_request"}
    return msgspec.json.encode(body)
