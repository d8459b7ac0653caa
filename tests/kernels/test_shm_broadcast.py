"""Messages through shared memory: all of them, whole, in order, at every receiver, and no waiting for who is gone."""

import random
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels.native.compiler import find_compiler
from kernels.shm_broadcast.cpu import CAPACITY, ShmMessageQueue

COMPILER = find_compiler()
pytestmark = [pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")]


@pytest.fixture(params=[2, 4])
def ends(request: pytest.FixtureRequest) -> Iterator[list[ShmMessageQueue]]:
    assert COMPILER is not None
    name = f"manta-test-{secrets.token_hex(6)}"
    ends = [ShmMessageQueue(COMPILER, name, rank, request.param, 1.0) for rank in range(request.param)]
    ends[0].unlink()
    assert not list(Path("/dev/shm").glob(name))
    yield ends
    for end in ends:
        end.abort()
        end.close()


def test_every_receiver_gets_every_message(ends: list[ShmMessageQueue]) -> None:
    rng = random.Random(0)
    sizes = [0, 1, CAPACITY - 1, CAPACITY, CAPACITY + 1, 3 * CAPACITY + 5, *(rng.randrange(5000) for _ in range(300))]
    messages = [rng.randbytes(size) for size in sizes]

    def receive(end: ShmMessageQueue) -> list[bytes]:
        found = []
        for number in range(len(messages)):
            if number % 50 == 0:
                time.sleep(0.01)  # the first one waits for the slowest
            found.append(end.receive())
        return found

    with ThreadPoolExecutor(len(ends)) as pool:
        received = [pool.submit(receive, end) for end in ends[1:]]
        for message in messages:
            ends[0].send(message)
        assert all(one.result() == messages for one in received)


def test_a_message_comes_to_who_has_waited_for_long(ends: list[ShmMessageQueue]) -> None:
    with ThreadPoolExecutor(len(ends)) as pool:
        received = [pool.submit(end.receive) for end in ends[1:]]
        began_s = time.process_time()
        time.sleep(1.5)
        assert time.process_time() - began_s < 0.5, "waiting takes the processor"
        ends[0].send(b"at last")
        assert [one.result(5) for one in received] == [b"at last"] * len(received)


@pytest.mark.parametrize("who", [0, -1])
def test_nobody_waits_for_a_rank_that_is_gone(ends: list[ShmMessageQueue], who: int) -> None:
    with ThreadPoolExecutor(len(ends)) as pool:
        received = [pool.submit(end.receive) for end in ends[1:]]
        threading.Timer(0.1, ends[who].abort).start()
        for one in received:
            with pytest.raises(RuntimeError, match="gone"):
                one.result(5)
    with pytest.raises(RuntimeError, match="gone"):
        ends[0].send(b"x")


def test_a_message_that_nobody_takes_is_an_error(ends: list[ShmMessageQueue]) -> None:
    ends[0].send(b"first")
    with pytest.raises(RuntimeError, match="does not take"):
        ends[0].send(b"second")
