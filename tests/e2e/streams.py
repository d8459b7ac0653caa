"""Streams of the echo app on the session's Serve, and what the tests of faults look at meanwhile."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ray.util.state import list_actors

__all__ = ["Outcome", "Stream", "pids", "status", "struck", "wait_for"]


class Stream(threading.Thread):
    """One request, from its beginning to whatever ends it."""

    def __init__(self, app: str, number: int, max_tokens: int) -> None:
        super().__init__()
        self._app = app
        self.asked = {"request_id": f"r{number}", "prompt": [number % 50, 2], "max_tokens": max_tokens, "seed": number}
        self.tokens: list[int] = []
        self.status = 0
        self.cut: str | None = None  # how the connection ended, if not with the answer's end
        self.longest_gap_s = 0.0
        self.start()

    def run(self) -> None:
        last_s = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", 18000, timeout=60)
        try:
            connection.request("POST", f"/{self._app}", json.dumps(self.asked))
            response = connection.getresponse()
            self.status = response.status
            rest = b""
            while data := response.read1(65536):  # readline would hide a cut
                self.longest_gap_s, last_s = max(self.longest_gap_s, time.monotonic() - last_s), time.monotonic()
                *lines, rest = (rest + data).split(b"\n")
                self.tokens += [token for line in lines for token in json.loads(line)[1]]
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.cut = f"{type(error).__name__}: {error}"
        finally:
            connection.close()


class Outcome(NamedTuple):
    streams: list[Stream]  # that ran when the fault struck
    newcomers: list[Stream]  # that came from then on


def struck(
    app: str, fault: Callable[[], object], max_tokens: int, *, num_newcomers: int = 8, after_s: float = 1.0
) -> Outcome:
    """Eight streams with a fault in their middle, and a short new request each quarter of a second from then on."""
    streams = [Stream(app, number, max_tokens) for number in range(8)]
    time.sleep(after_s)
    fault()
    newcomers = []
    for number in range(num_newcomers):
        newcomers.append(Stream(app, 100 + number, 20))
        time.sleep(0.25)
    for stream in (*streams, *newcomers):
        stream.join()
    silences = [max(one.longest_gap_s for one in kind) for kind in (streams, newcomers)]
    print(f"silent for {silences[0]:.2f} s at most, newcomers for {silences[1]:.2f} s; cut: {_cuts(streams)}")
    return Outcome(streams, newcomers)


def _cuts(streams: Sequence[Stream]) -> list[str]:
    return [one.cut for one in streams if one.cut]


def pids(name: str) -> list[int]:
    """The processes of actors whose name or class this is part of."""
    # by address: other clusters may run on this machine
    actors = list_actors(address="http://127.0.0.1:18265", filters=[("state", "=", "ALIVE")], limit=1000)
    return sorted(actor.pid for actor in actors if actor.pid and name in (actor.name or actor.class_name or ""))


def wait_for(what: str, condition: Callable[[], bool], limit_s: float = 60.0) -> float:
    """Returns after how many seconds."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < limit_s, f"not within {limit_s:g} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began_s


def status(app: str) -> Any:
    """Of all replicas together, as an ingress knows them; None if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", 18000, timeout=10)
    try:
        connection.request("POST", f"/{app}", json.dumps({"status": "toy"}))
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
