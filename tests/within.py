"""Calls that might wait for ever: Ray's, of a cluster whose raylet has died."""

import threading
from collections.abc import Callable

__all__ = ["within"]


def within(seconds: float, call: Callable[[], object]) -> None:
    """Calls it in a thread. Raises what it raises, and TimeoutError if it has not returned by then."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"it has not returned for {seconds:g} s; has the cluster's raylet died?")
    if failures:
        raise failures[0]
