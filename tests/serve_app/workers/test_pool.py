import asyncio
import os
import signal
import time

import pytest

from engine.errors import Overloaded
from serve_app.workers.pool import LimitExceeded, WorkerPool

TASKS = "tests.serve_app.workers.tasks"


@pytest.fixture
def pool():
    pool = WorkerPool(num_workers=1, cpu_s=0.3, memory_bytes=64 << 20)
    pool.share("a", f"{TASKS}:load", b"loaded")
    yield pool
    pool.close()


async def pid_of(pool):
    return int(await pool.run(f"{TASKS}:pid", "a", b""))


async def test_a_task_is_given_what_was_loaded_and_its_data(pool):
    assert await pool.run(f"{TASKS}:told", "a", b"data") == b"LOADED data"


async def test_one_worker_does_task_after_task_until_there_is_more_to_know(pool):
    first = await pid_of(pool)
    assert await pid_of(pool) == first
    pool.share("b", f"{TASKS}:load", b"more")
    assert await pool.run(f"{TASKS}:told", "b", b"data") == b"MORE data"
    assert await pid_of(pool) != first


async def test_a_task_that_takes_too_long_is_killed_and_the_next_one_is_done(pool):
    first = await pid_of(pool)
    began_s = time.monotonic()
    with pytest.raises(LimitExceeded, match=r"^it takes more than 0\.3 s of a CPU$"):
        await pool.run(f"{TASKS}:spin", "a", b"60")
    assert time.monotonic() - began_s < 30
    assert await pool.run(f"{TASKS}:spin", "a", b"0.01") == b"done"
    assert await has_ended(first)


async def has_ended(pid):
    """What was killed at the lowest priority takes a moment to go."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_long_task_leaves_the_cpus_to_others_and_the_next_one_does_not():
    slow = WorkerPool(num_workers=1, cpu_s=5)
    slow.share("a", f"{TASKS}:load", b"")
    try:
        assert await slow.run(f"{TASKS}:spin", "a", b"0.01") == b"done"
        pid = await pid_of(slow)
        task = asyncio.create_task(slow.run(f"{TASKS}:spin", "a", b"2"))
        while os.getpriority(os.PRIO_PROCESS, pid) != 5:
            assert not task.done()
            await asyncio.sleep(0.01)
        assert await task == b"done"
        assert os.getpriority(os.PRIO_PROCESS, await pid_of(slow)) == os.getpriority(os.PRIO_PROCESS, 0)
    finally:
        slow.close()


@pytest.mark.parametrize("function", ["eat", "die"])
async def test_a_task_that_takes_too_much_memory_ends_alone(pool, function):
    with pytest.raises(LimitExceeded, match=r"^it takes more than 64 MiB of memory$"):
        await pool.run(f"{TASKS}:{function}", "a", str(256 << 20).encode())
    assert await pool.run(f"{TASKS}:eat", "a", str(8 << 20).encode()) == str(8 << 20).encode()


async def test_what_a_function_raises_is_told(pool):
    with pytest.raises(RuntimeError, match="ValueError: no"):
        await pool.run(f"{TASKS}:fail", "a", b"")


async def test_a_worker_that_died_with_nothing_to_do_is_replaced(pool):
    os.kill(await pid_of(pool), signal.SIGKILL)
    await asyncio.sleep(0.1)
    assert await pool.run(f"{TASKS}:told", "a", b"data") == b"LOADED data"


async def test_a_fork_server_that_died_is_replaced(pool):
    first = await pid_of(pool)
    pool._server._process.kill()  # with which its workers end, on Linux
    pool._server._process.wait()
    await asyncio.sleep(0.1)
    assert await pid_of(pool) != first


async def test_what_is_asked_beyond_the_queue_is_refused():
    pool = WorkerPool(num_workers=1, cpu_s=1, max_waiting=2)
    pool.share("a", f"{TASKS}:load", b"loaded")
    try:
        running = [asyncio.create_task(pool.run(f"{TASKS}:spin", "a", b"0.2")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await pool.run(f"{TASKS}:told", "a", b"")
        assert await asyncio.gather(*running) == [b"done", b"done"]
        assert await pool.run(f"{TASKS}:told", "a", b"x") == b"LOADED x"
    finally:
        pool.close()


async def test_nothing_is_left_behind(pool):
    worker = await pid_of(pool)
    server = pool._server._process.pid
    pool.close()
    for _ in range(50):
        if not any(os.path.exists(f"/proc/{pid}") for pid in (worker, server)):
            return
        await asyncio.sleep(0.1)
    pytest.fail("a process is left")
