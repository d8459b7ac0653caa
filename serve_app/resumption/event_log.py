"""The last events of a running stream, numbered from 0, each with its id."""

from collections import deque

__all__ = ["EventLog"]

RETRY = b"retry: 1000\n"  # ms until an EventSource reconnects; in the first event


class EventLog:
    """Bounded in bytes: the oldest events go first.

    skipped    events that the client has: they are counted, and not kept
    """

    def __init__(self, stream_id: str, max_bytes: int, skipped: int = 0) -> None:
        self._head = b"id: %b." % stream_id.encode()
        self._max_bytes = max_bytes
        self._skipped = self._first = skipped  # the number of the first event that is kept
        self._events: deque[bytes] = deque()
        self.num_events = 0
        self.num_bytes = 0

    def add(self, events: bytes) -> bytes:
        """Numbers events. Returns those that are not skipped, with their ids."""
        count = events.count(b"\n\n")
        if self.num_events + count <= self._skipped:
            self.num_events += count
            return b""
        if count == 1:
            return self._add(events)
        return b"".join([self._add(event + b"\n\n") for event in events.split(b"\n\n")[:-1]])

    def after(self, number: int) -> bytes | None:
        """The events behind the one with this number; None if some of them are not kept."""
        place = number + 1 - self._first
        if place < 0:
            return None
        events = self._events
        return b"".join([events[index] for index in range(place, len(events))])

    def _add(self, event: bytes) -> bytes:
        number = self.num_events
        self.num_events += 1
        if number < self._skipped:
            return b""
        event = b"%b%d\n%b" % (self._head, number, event) if number else b"%b%b0\n%b" % (RETRY, self._head, event)
        self._events.append(event)
        self.num_bytes += len(event)
        while self.num_bytes > self._max_bytes:
            self.num_bytes -= len(self._events.popleft())
            self._first += 1
        return event
