"""Ranks find each other beside strangers, who neither stop them, nor take a rank's place, nor keep them waiting."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.parallel import worker_commands
from engine.parallel.worker_commands import HELLO, NONCE_BYTES, Driver, LoadBlock, Rendezvous, SaveBlock, Worker
from engine.scheduling.scheduler_output import SchedulerOutput

TOKEN = "a token"
SIZE = 3


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver("127.0.0.1", SIZE, TOKEN)
    yield driver
    driver.close()
    deadline_s = time.monotonic() + 30
    while any(thread.name in ("rank-rendezvous", "rank-hello") for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s, "a thread of the rendezvous stays"
        time.sleep(0.01)


def meeting_of(driver: Driver, token: str = TOKEN) -> Rendezvous:
    return Rendezvous("127.0.0.1", driver.port, token, SIZE, "none")


Join = Callable[[int], Worker]


@pytest.fixture
def join(driver: Driver) -> Iterator[Join]:
    """Makes a rank of it."""
    followers: list[Worker] = []

    def join(rank: int) -> Worker:
        followers.append(Worker(meeting_of(driver), rank, timeout_s=20))
        return followers[-1]

    yield join
    for worker in followers:
        worker.close()


def agree(driver: Driver) -> list[int]:
    """What all ranks agree upon, the first one first."""
    with ThreadPoolExecutor(SIZE) as pool:

        def follow(rank: int) -> int:
            with contextlib.closing(Worker(meeting_of(driver), rank, timeout_s=20)) as worker:
                return worker.all_reduce_min(100 + rank)

        others = [pool.submit(follow, rank) for rank in range(1, SIZE)]
        return [driver.all_reduce_min(102, timeout_s=20), *(other.result() for other in others)]


Stranger = Callable[[int], list[socket.socket]]  # what one does at a port; the connections that stay open


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def goes_again(port: int) -> list[socket.socket]:
    connected(port).close()
    return []


def may_be_unused(port: int) -> list[socket.socket]:
    return [connected(port)]


def many_say_nothing(port: int) -> list[socket.socket]:
    return [connected(port) for _ in range(100)]


def sends(data: bytes) -> Stranger:
    def stranger(port: int) -> list[socket.socket]:
        connection = connected(port)
        connection.sendall(data)
        return [connection]

    return stranger


def promises_a_large_frame(port: int) -> list[socket.socket]:
    return sends(b"\xff\xff\xff\xff" + bytes(10))(port)


def has_another_token(port: int) -> list[socket.socket]:
    with connected(port) as connection, pytest.raises(OSError):
        worker_commands._authenticate(connection, b"another token", 1, time.monotonic() + 5)
    return []


def repeats_what_a_rank_said(port: int) -> list[socket.socket]:
    """Recorded at another meeting with the same token."""
    with socket.create_server(("127.0.0.1", 0)) as false_leader:
        rendezvous = Rendezvous("127.0.0.1", false_leader.getsockname()[1], TOKEN, SIZE, "none")
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(Worker, rendezvous, 1, None, 0.1)
            with false_leader.accept()[0] as connection:
                connection.sendall(bytes(NONCE_BYTES))
                recorded = connection.recv(HELLO.size, socket.MSG_WAITALL)
            with pytest.raises(OSError):
                joined.result()
    return sends(recorded)(port)


def is_a_rank_that_there_is_not(port: int) -> list[socket.socket]:
    for rank in (0, SIZE, 2**32 - 1):
        with connected(port) as connection, pytest.raises(OSError):
            worker_commands._authenticate(connection, TOKEN.encode(), rank, time.monotonic() + 5)
    return []


@pytest.mark.parametrize(
    "stranger",
    [
        goes_again,
        may_be_unused,
        many_say_nothing,
        sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        sends(bytes(1_000_000)),
        sends(b"\xff" * HELLO.size),
        promises_a_large_frame,
        has_another_token,
        repeats_what_a_rank_said,
        is_a_rank_that_there_is_not,
    ],
)
def test_ranks_meet_beside_a_stranger(driver: Driver, stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_commands, "HELLO_S", 60.0)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ConnectionError):  # it may be cut off while it still speaks
            for connection in stranger(driver.port):
                stack.enter_context(connection)
        began_s = time.monotonic()
        assert agree(driver) == [101, 101, 101]
        assert time.monotonic() - began_s < 20, "a stranger was waited for"


def test_ranks_meet_while_strangers_come_all_the_time(driver: Driver) -> None:
    is_over = threading.Event()

    def crowd() -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):  # it closes when all have come
            while not is_over.is_set():
                stack.enter_context(connected(driver.port))
                time.sleep(0.002)

    thread = threading.Thread(target=crowd)
    thread.start()
    try:
        time.sleep(0.2)
        assert agree(driver) == [101, 101, 101]
    finally:
        is_over.set()
        thread.join()


def test_who_drips_bytes_is_cut_off(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_commands, "HELLO_S", 0.3)
    with connected(driver.port) as connection:
        began_s = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began_s < 20:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - began_s < 10


def test_nobody_takes_the_place_of_a_rank_that_has_come(driver: Driver, join: Join) -> None:
    first = join(1)
    while 1 not in driver._joining._ranks:
        time.sleep(0.001)
    again, other = join(1), join(2)  # the second knows the token, and is refused all the same
    with ThreadPoolExecutor(2) as pool:
        agreed = [pool.submit(one.all_reduce_min, 50) for one in (first, other)]
        assert driver.all_reduce_min(60, timeout_s=20) == 50
        assert [one.result() for one in agreed] == [50, 50]
    with pytest.raises(OSError):
        again.all_reduce_min(1)
    commands = [SaveBlock(b"name", 7), SchedulerOutput(step=1, sequences=()), LoadBlock(3, (b"share",))]
    for command in commands:
        driver.send(command)
    for one in (first, other):
        received = one.commands()
        assert [next(received) for _ in commands] == commands


def test_a_leader_without_the_token_is_not_followed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as false_leader:
        rendezvous = Rendezvous("127.0.0.1", false_leader.getsockname()[1], TOKEN, SIZE, "none")
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(Worker, rendezvous, 1, None, 0.2)
            with false_leader.accept()[0] as connection:
                connection.sendall(bytes(NONCE_BYTES))
                connection.recv(HELLO.size, socket.MSG_WAITALL)
                connection.sendall(bytes(32))
                with pytest.raises(OSError):
                    joined.result()


def test_ranks_that_do_not_come_are_named(driver: Driver, join: Join) -> None:
    join(1)
    with pytest.raises(TimeoutError, match=r"of 3 ranks these have not come within 0.2 s: 2$"):
        driver.all_reduce_min(10, timeout_s=0.2)


def test_the_first_rank_hears_how_old_the_others_steps_are(driver: Driver, join: Join) -> None:
    followers = {rank: join(rank) for rank in (1, 2)}
    with ThreadPoolExecutor(2) as pool:
        agreed = [pool.submit(one.all_reduce_min, 50) for one in followers.values()]
        driver.all_reduce_min(60, timeout_s=20)
        assert [one.result() for one in agreed] == [50, 50]
    assert driver.heartbeats() == ()
    lost = threading.Event()
    driver.watch(lost.set)
    for one in followers.values():
        one.start_heartbeats()
    commands = followers[1].commands()
    driver.send(SaveBlock(b"name", 7))
    next(commands)  # and it does not come for another one
    deadline_s = time.monotonic() + 30
    while not all(beat.num_heartbeats > 2 for beat in driver.heartbeats()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    busy, idle = driver.heartbeats()
    assert busy.age_s > worker_commands.HEARTBEAT_S and idle.age_s == 0.0
    assert not lost.is_set()
    followers[2].close()
    assert lost.wait(5)


def test_a_rank_that_goes_while_it_loads_is_an_error(driver: Driver, join: Join) -> None:
    followers = [join(rank) for rank in (1, 2)]
    followers[0].close()
    with pytest.raises(OSError):
        driver.all_reduce_min(10, timeout_s=20)


class Pipe:
    """Two channels over a pair of sockets, with what passes from the first to the second in between."""

    def __init__(self) -> None:
        self._near, self._near_there = socket.socketpair()
        self._far, self._far_there = socket.socketpair()
        self.first = worker_commands.Channel(self._near, b"token", b"said", is_first=True)
        self.rank = worker_commands.Channel(self._far, b"token", b"said", is_first=False)

    def take(self) -> bytes:
        return self._near_there.recv(1 << 16)

    def put(self, data: bytes) -> None:
        self._far_there.sendall(data)

    def close(self) -> None:
        for one in (self._near, self._near_there, self._far, self._far_there):
            one.close()


def test_what_passes_a_channel_unchanged_is_received() -> None:
    with contextlib.closing(Pipe()) as pipe:
        for command in (b"one", b"", b"three" * 1000):
            pipe.first.send(command)
            pipe.put(pipe.take())
            assert pipe.rank.receive(10_000) == command


@pytest.mark.parametrize(
    "tamper",
    [
        lambda first, second: first[:5] + bytes([first[5] ^ 1]) + first[6:],
        lambda first, second: first[:-1] + bytes([first[-1] ^ 1]),
        lambda first, second: second,
        lambda first, second: first + first,
        lambda first, second: first[:8] + bytes(16) + first,
    ],
    ids=["a bit flipped", "a bit of the MAC flipped", "dropped", "repeated", "injected"],
)
def test_an_order_that_was_tampered_with_is_not_obeyed(tamper: Callable[[bytes, bytes], bytes]) -> None:
    with contextlib.closing(Pipe()) as pipe:
        frames = []
        for command in (b"one!", b"two!"):
            pipe.first.send(command)
            frames.append(pipe.take())
        pipe.put(tamper(*frames))
        with pytest.raises(ConnectionError, match="the MAC of a frame is wrong"):
            for _ in frames:
                assert pipe.rank.receive(10_000) == b"one!"


def test_a_frame_is_not_taken_back_by_who_sent_it() -> None:
    with contextlib.closing(Pipe()) as pipe:
        pipe.first.send(b"one!")
        pipe._near_there.sendall(pipe.take())
        with pytest.raises(ConnectionError, match="MAC"):
            pipe.first.receive(10_000)
