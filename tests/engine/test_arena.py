import os
import signal
import subprocess
import sys
import time

import pytest

from engine.arena import NAME_BYTES, WAYS, Arena, ArenaError

PIECE = 4096


def name(number):
    return number.to_bytes(8, "little") * (NAME_BYTES // 8)


def put(arena, number, value=None):
    with arena.writing(name(number)) as piece:
        if piece is None:
            return False
        piece[:] = number % 251 if value is None else value
        return True


def get(arena, number):
    with arena.reading(name(number)) as piece:
        return None if piece is None else int(piece[0])


@pytest.fixture
def arena(tmp_path):
    arena = Arena("one", PIECE, 4 * WAYS * PIECE, tmp_path)
    yield arena
    arena.close()


def test_what_was_written_is_found_and_nothing_else(arena):
    assert all(put(arena, number) for number in range(20))
    assert [get(arena, number) for number in range(20)] == list(range(20))
    assert not arena.holds(name(20)) and get(arena, 20) is None
    assert not put(arena, 3, value=99) and get(arena, 3) == 3  # it is there already


def test_a_name_that_reaches_over_two_others_is_not_there(arena):
    put(arena, 0), put(arena, 4)
    assert not arena.holds(name(0)[8:] + name(4)[:8])


def test_the_piece_that_was_used_longest_ago_makes_room(arena):
    same_bucket = [4 * at for at in range(WAYS + 1)]
    for number in same_bucket[:WAYS]:
        put(arena, number)
    get(arena, same_bucket[0])
    put(arena, same_bucket[WAYS])
    assert [number for number in same_bucket if not arena.holds(name(number))] == [same_bucket[1]]


def test_two_processes_share_it_and_the_last_one_gives_it_back(arena, tmp_path):
    other = Arena("one", PIECE, 4 * WAYS * PIECE, tmp_path)
    put(arena, 7)
    assert get(other, 7) == 7
    other.close()
    assert get(arena, 7) == 7 and len(list(tmp_path.iterdir())) == 1
    again = Arena("one", PIECE, 4 * WAYS * PIECE, tmp_path)
    assert get(again, 7) == 7
    again.close()


def test_the_last_one_gives_it_back(tmp_path):
    Arena("one", PIECE, WAYS * PIECE, tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_memory_that_nobody_has_open_is_given_back_to_others(arena, tmp_path):
    left = tmp_path / "manta-blocks-old-16x4096"
    left.write_bytes(bytes(100))
    other = Arena("two", PIECE, WAYS * PIECE, tmp_path)
    assert not left.exists() and len(list(tmp_path.iterdir())) == 2
    other.close()


CHILD = """
import sys
from pathlib import Path
from engine.arena import Arena
from tests.engine.test_arena import PIECE, WAYS, name, put
arena = Arena("one", PIECE, 4 * WAYS * PIECE, Path(sys.argv[1]))
put(arena, 5)
with arena.writing(name(9)) as piece:
    piece[:100] = 1
    print("in it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing name 9, which wrote name 5 before."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in it\n"
    yield process
    process.kill()
    process.communicate()


def test_nobody_waits_for_a_process_that_is_stopped(arena, writer):
    os.kill(writer.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    assert get(arena, 9) is None and not put(arena, 9) and get(arena, 5) is None  # all of one bucket
    assert put(arena, 6) and get(arena, 6) == 6
    assert time.monotonic() - began_s < 0.5


def test_what_a_killed_process_wrote_stays_and_what_it_was_writing_is_not_there(arena, writer):
    writer.kill()
    writer.wait()
    assert get(arena, 5) == 5 and get(arena, 9) is None
    assert put(arena, 9) and get(arena, 9) == 9


def test_too_little_memory_says_so(tmp_path):
    with pytest.raises(ArenaError, match="no room for"):
        Arena("one", PIECE, 1 << 50, tmp_path)
    assert list(tmp_path.iterdir()) == []
