import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from engine.cache.host_tier import HASH_BYTES, WAYS, HostTier, HostTierError

PIECE = 4096


def name(number):
    return number.to_bytes(8, "little") * (HASH_BYTES // 8)


def put(host_tier, number, value=None):
    return host_tier.write(name(number), [bytes([number % 251 if value is None else value]) * PIECE])


def get(host_tier, number):
    """What every byte of it is."""
    block = bytearray(PIECE)
    if not host_tier.read(name(number), [block]):
        return None
    assert len(set(block)) == 1
    return block[0]


@pytest.fixture
def host_tier(tmp_path):
    host_tier = HostTier("one", PIECE, 4 * WAYS * PIECE, tmp_path)
    yield host_tier
    host_tier.close()


def test_what_was_written_is_found_and_nothing_else(host_tier):
    assert all(put(host_tier, number) for number in range(20))
    assert [get(host_tier, number) for number in range(20)] == list(range(20))
    assert not host_tier.holds(name(20)) and get(host_tier, 20) is None
    assert not put(host_tier, 3, value=99) and get(host_tier, 3) == 3  # it is there already


def test_a_name_that_reaches_over_two_others_is_not_there(host_tier):
    put(host_tier, 0), put(host_tier, 4)
    assert not host_tier.holds(name(0)[8:] + name(4)[:8])


def test_the_piece_that_was_used_longest_ago_makes_room(host_tier):
    same_bucket = [4 * at for at in range(WAYS + 1)]
    for number in same_bucket[:WAYS]:
        put(host_tier, number)
    get(host_tier, same_bucket[0])
    put(host_tier, same_bucket[WAYS])
    assert [number for number in same_bucket if not host_tier.holds(name(number))] == [same_bucket[1]]


def test_two_processes_share_it_and_the_last_one_gives_it_back(host_tier, tmp_path):
    other = HostTier("one", PIECE, 4 * WAYS * PIECE, tmp_path)
    put(host_tier, 7)
    assert get(other, 7) == 7
    other.close()
    assert get(host_tier, 7) == 7 and len(list(tmp_path.iterdir())) == 1
    again = HostTier("one", PIECE, 4 * WAYS * PIECE, tmp_path)
    assert get(again, 7) == 7
    again.close()


def test_the_last_one_gives_it_back(tmp_path):
    HostTier("one", PIECE, WAYS * PIECE, tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_memory_that_nobody_has_open_is_given_back_to_others(host_tier, tmp_path):
    left = tmp_path / "manta-blocks-old-16x4096"
    left.write_bytes(bytes(100))
    other = HostTier("two", PIECE, WAYS * PIECE, tmp_path)
    assert not left.exists() and len(list(tmp_path.iterdir())) == 2
    other.close()


CHILD = """
import sys
from pathlib import Path
from engine.cache.host_tier import HostTier
from tests.engine.cache.test_host_tier import PIECE, WAYS, name, put
host_tier = HostTier("one", PIECE, 4 * WAYS * PIECE, Path(sys.argv[1]))
put(host_tier, 5)

def pieces():
    yield bytes(100)
    print("in it", flush=True)
    sys.stdin.read()

host_tier.write(name(9), pieces())
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


def test_nobody_waits_for_a_process_that_is_stopped(host_tier, writer):
    os.kill(writer.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    assert get(host_tier, 9) is None and not put(host_tier, 9) and get(host_tier, 5) is None  # all of one bucket
    assert put(host_tier, 6) and get(host_tier, 6) == 6
    assert time.monotonic() - began_s < 10  # it stays stopped


def test_what_a_killed_process_wrote_stays_and_what_it_was_writing_is_not_there(host_tier, writer):
    writer.kill()
    writer.wait()
    assert get(host_tier, 5) == 5 and get(host_tier, 9) is None
    assert put(host_tier, 9) and get(host_tier, 9) == 9


def test_too_little_memory_says_so(tmp_path):
    with pytest.raises(HostTierError, match="no room for"):
        HostTier("one", PIECE, 1 << 50, tmp_path)
    assert list(tmp_path.iterdir()) == []


def path_of(tmp_path):
    (path,) = tmp_path.iterdir()
    return path


def complaints(caplog):
    return [record.getMessage() for record in caplog.records if "does without" in record.getMessage()]


@pytest.mark.parametrize("left", [0, 100, 4096, 5000, 100_000])
def test_a_file_that_is_truncated_while_in_use_costs_hits_only(host_tier, tmp_path, caplog, left):
    for number in range(20):
        assert put(host_tier, number)
    os.truncate(path_of(tmp_path), left)
    found = [get(host_tier, number) for number in range(20)]
    assert all(value in (number, None) for number, value in enumerate(found)) and None in found
    for number in range(20, 30):
        assert put(host_tier, number) and get(host_tier, number) == number  # it goes on
    found = [get(host_tier, number) for number in range(20)]  # what was lost reads as zeros now, and is no block
    assert all(value in (number, None) for number, value in enumerate(found)) and None in found
    assert all(put(host_tier, number) for number, value in enumerate(found) if value is None)
    assert [get(host_tier, number) for number in range(30)] == list(range(30))
    assert len(complaints(caplog)) == 1 and "somebody truncated it" in complaints(caplog)[0]


def test_a_file_that_is_truncated_between_a_look_and_the_copy_is_a_miss(host_tier, tmp_path):
    put(host_tier, 3)
    assert host_tier.holds(name(3))

    def buffers():
        os.truncate(path_of(tmp_path), host_tier.num_pieces // WAYS * 400)  # the buckets stay
        yield bytearray(PIECE)

    assert not host_tier.read(name(3), buffers())
    assert not host_tier.holds(name(3)), "nobody would keep it again"


def test_a_file_that_was_replaced_is_let_go(host_tier, tmp_path, caplog):
    put(host_tier, 3)
    path = path_of(tmp_path)
    path.unlink()
    successor = HostTier("one", PIECE, 4 * WAYS * PIECE, tmp_path)
    assert put(successor, 4)
    assert (
        not put(host_tier, 5) and get(host_tier, 3) is None and not host_tier.holds(name(4)) and not put(host_tier, 6)
    )
    host_tier.close()
    assert path.exists() and get(successor, 4) == 4  # it is not the one who gives that back
    assert len(complaints(caplog)) == 1 and "removed or replaced it" in complaints(caplog)[0]
    successor.close()


FULL = """
import resource, sys
from pathlib import Path
from engine.cache.host_tier import HostTier
from tests.engine.cache.test_host_tier import PIECE, WAYS, get, put
folder = Path(sys.argv[1])
host_tier = HostTier("one", PIECE, 4 * WAYS * PIECE, folder)
kept = 0
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * PIECE, 8 * PIECE))
else:
    free = (folder / "other").open("wb", buffering=0)
    while free.write(bytes(100_000)) == 100_000 and free.tell() < 150_000:
        pass
for number in range(64):
    kept += put(host_tier, number)
assert 0 < kept < 64, kept
assert sum(get(host_tier, number) == number for number in range(64)) == kept
assert not put(host_tier, 100), "it is full"
host_tier.close()
print("went on")
"""


def in_a_process(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


def test_a_limit_that_is_reached_while_writing_costs_hits_only(tmp_path):
    done = in_a_process([sys.executable, "-c", FULL, str(tmp_path), "limit"])
    assert done.stdout == "went on\n", done.stderr
    assert done.stderr.count("does without") == 1, done.stderr


# a file system of its own: as root, or where a user may have namespaces
UNSHARE = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user"))]
CAN_MOUNT = (
    shutil.which("unshare")
    and not subprocess.run(
        [*UNSHARE, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"], capture_output=True
    ).returncode
)


@pytest.mark.skipif(not CAN_MOUNT, reason="mounts a small tmpfs: needs root or user namespaces")
def test_memory_that_is_full_costs_hits_only(tmp_path):
    mount = f'mount -t tmpfs -o size=400k tmpfs {tmp_path} && exec $0 -c "$1" {tmp_path}'
    done = in_a_process([*UNSHARE, "sh", "-c", mount, sys.executable, FULL])
    assert done.stdout == "went on\n", done.stderr
    assert "No space left on device" in done.stderr and done.stderr.count("does without") == 1, done.stderr


def in_its_place(kind, path, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    match kind:
        case "symlink":
            elsewhere.write_bytes(b"precious")
            path.symlink_to(elsewhere)
        case "dangling symlink":
            path.symlink_to(elsewhere)
        case "mode":
            path.touch()
            path.chmod(0o660)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path, 0o600)
        case "owner":
            path.touch(0o600)
            os.chown(path, 65534, 65534)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("symlink", "is a symbolic link"),
        ("dangling symlink", "is a symbolic link"),
        ("mode", r"others have access \(mode 0660\), must be 0600; remove it"),
        ("folder", "Is a directory"),
        ("pipe", "must be a regular file"),
        pytest.param(
            "owner",
            r"belongs to user 65534, must belong to user \d+; remove it",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
        ),
    ],
)
def test_what_is_not_ours_is_not_used(host_tier, tmp_path, kind, said):
    path = path_of(tmp_path)
    host_tier.close()
    in_its_place(kind, path, tmp_path)
    with pytest.raises(HostTierError, match=f"{re.escape(str(path))}: {said}"):
        HostTier("one", PIECE, 4 * WAYS * PIECE, tmp_path)
    assert kind != "symlink" or path.resolve().read_bytes() == b"precious"


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_others_have_no_access_whatever_the_umask_is(tmp_path, umask):
    before = os.umask(umask)
    try:
        host_tier = HostTier("one", PIECE, WAYS * PIECE, tmp_path)
        assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600
        HostTier("one", PIECE, WAYS * PIECE, tmp_path).close()
        host_tier.close()
    finally:
        os.umask(before)
