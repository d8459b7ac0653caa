"""The log of a stream's last events."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.resumption.event_log import EventLog

EVENT = b"data: x\n\n"


def test_every_event_has_its_number():
    log = EventLog("s", 1000)
    assert log.add(EVENT) == b"retry: 1000\nid: s.0\ndata: x\n\n"
    assert log.add(EVENT + b"event: y\ndata: z\n\n") == b"id: s.1\ndata: x\n\nid: s.2\nevent: y\ndata: z\n\n"
    assert log.add(b"") == b"" and log.num_events == 3


@given(counts=st.lists(st.integers(0, 3), max_size=12), skipped=st.integers(0, 20), after=st.integers(-1, 20))
def test_it_gives_what_comes_behind_an_event(counts, skipped, after):
    whole = EventLog("s", 10_000)
    parts = b"".join([whole.add(EVENT * count) for count in counts])
    assert whole.after(-1) == parts
    log = EventLog("s", 10_000, skipped=skipped)
    sent = b"".join([log.add(EVENT * count) for count in counts])
    assert sent == whole.after(skipped - 1) and log.num_events == whole.num_events
    assert log.after(after) == (whole.after(after) if after >= skipped - 1 else None)


def test_the_oldest_events_go_first():
    log = EventLog("s", 40)
    for _ in range(5):
        log.add(EVENT)
    assert log.num_bytes <= 40 and log.after(4) == b"" and log.after(3) == b"id: s.4\ndata: x\n\n"
    assert log.after(1) is None and log.after(-1) is None
