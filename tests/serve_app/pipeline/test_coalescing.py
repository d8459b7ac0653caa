"""stream_interval: fewer and larger events."""

from engine.types import RequestOutput
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.usage import Usage
from serve_app.pipeline.coalescing import Coalesced
from serve_app.text.message_delta import MessageDelta
from serve_app.transport.errors import Fault


class Plain:
    """A StreamRenderer of texts alone."""

    wants_usage = True

    def opening(self, usage):
        return b"opening"

    def delta(self, delta, usage):
        return f"{delta.index}:{delta.message.content}".encode()

    def closing(self, usage):
        return b"closing"

    def fault(self, fault):
        return fault.body()


def delta(text, index=0, reason=None):
    tokens = tuple(text.encode())
    return ChoiceDelta(index, RequestOutput("r", index, 0, tokens), MessageDelta(text), tokens, finish_reason=reason)


def test_the_first_token_and_the_last_go_at_once_and_others_together():
    events, usage = Coalesced(Plain(), 3, num_choices=2), Usage(1, 1, 0)
    written = [events.delta(delta(text), usage) for text in ("a", "b", "c", "d", "e")]
    assert written == [b"0:a", b"", b"", b"0:bcd", b""]
    assert events.delta(delta("x", index=1), usage) == b"1:x"
    assert events.delta(delta("f", reason="stop"), usage) == b"0:ef"


def test_all_else_is_the_renderers():
    events, usage, fault = Coalesced(Plain(), 3, num_choices=1), Usage(1, 1, 0), Fault(500, "T", "m")
    assert (events.opening(usage), events.closing(usage), events.fault(fault)) == (b"opening", b"closing", fault.body())
    assert events.wants_usage
