"""What all events of one answer share."""

import msgspec

from serve_app.generation.usage import Usage
from serve_app.openai.events import EventWriter, usage_info
from serve_app.pipeline.renderer import ResponseMetadata
from serve_app.request.options import Delivery
from serve_app.transport.errors import Fault

METADATA = ResponseMetadata("x-1", 17, "toy", "print")
USAGE = Usage(3, 2, 1)
HEAD = {"id": "x-1", "object": "kind", "created": 17, "model": "toy"}


def writer(**delivery):
    return EventWriter("kind", METADATA, Delivery(stream=True, **delivery))


def data(event):
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    return msgspec.json.decode(event[len(b"data: ") :])


def test_the_last_event_has_the_fingerprint_unless_a_usage_event_comes():
    assert data(writer().event(b'{"a":1}', USAGE)) == {**HEAD, "choices": [{"a": 1}]}
    assert data(writer().event(b"{}", USAGE, is_last=True))["system_fingerprint"] == "print"
    assert writer().closing(USAGE) == b"data: [DONE]\n\n"
    with_usage = writer(include_usage=True)
    assert "system_fingerprint" not in data(with_usage.event(b"{}", USAGE, is_last=True))
    closing = data(with_usage.closing(USAGE).removesuffix(b"data: [DONE]\n\n"))
    assert closing == {**HEAD, "choices": [], "system_fingerprint": "print", "usage": usage_info(USAGE)}


def test_usage_is_in_every_event_where_both_options_say_so():
    assert not writer(continuous_usage=True).wants_usage
    always = writer(include_usage=True, continuous_usage=True)
    assert always.wants_usage and data(always.event(b"{}", USAGE))["usage"]["total_tokens"] == 5


def test_a_fault_ends_the_stream():
    event, done, _ = writer().fault(Fault(500, "T", "m")).split(b"\n\n")
    assert msgspec.json.decode(event[len(b"data: ") :])["error"]["code"] == 500 and done == b"data: [DONE]"


def test_usage_says_what_there_is():
    assert usage_info(USAGE) == {
        "prompt_tokens": 3,
        "total_tokens": 5,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    more = usage_info(Usage(3, 2, 1, reasoning_tokens=1, num_migrations=2))
    assert more["completion_tokens_details"] == {"reasoning_tokens": 1} and more["migrations"] == 2
