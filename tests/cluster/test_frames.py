"""What is too large for one frame is refused or split, and ends nobody's streams."""

import asyncio

import msgspec
import pytest

from cluster.server import _Connection
from cluster.wire import TAG_BYTES, Report, Seal
from engine.errors import RequestError
from engine.types import EngineOutputs, RequestOutput
from tests.cluster.local import WIRE, local_cluster
from tests.cluster.test_client import assert_is, collect
from tests.engine.toy import request

SEAL = Seal(b"secret", b"replica", b"", b"")
SMALL = msgspec.structs.replace(WIRE, max_frame_bytes=20_000)


class Transport:
    def is_closing(self):
        return False

    def get_write_buffer_size(self):
        return 0


class Writer:
    transport = Transport()

    def __init__(self):
        self.frames = []

    def write(self, frame):
        self.frames.append(msgspec.msgpack.decode(frame[4:-TAG_BYTES], type=Report).report)


async def test_a_request_that_is_too_large_is_refused_and_others_go_on():
    async with local_cluster(2, SMALL) as cluster:
        others = [request(f"r{i}", [i, 2], max_tokens=150, seed=i) for i in range(8)]
        running = asyncio.gather(*(collect(cluster.client, one) for one in others))
        await asyncio.sleep(0.1)
        for number in range(20):
            with pytest.raises(RequestError, match=r"at most 20000 together \(wire.max_frame_bytes\)"):
                await collect(cluster.client, request(f"large{number}", [70_000] * 6_000, max_tokens=5))
        with pytest.raises(RequestError, match="its answers up to 25000 on a way"):
            await collect(cluster.client, request("long", [1], max_tokens=5_000))
        for one, chunks in zip(others, await running, strict=True):
            assert_is(chunks, one)
        assert cluster.migrations == [] and cluster.client.num_open == 0


@pytest.mark.parametrize("max_bytes", [2_000, 5_000, 100_000])
async def test_a_report_is_split_and_tells_the_same(max_bytes):
    async with local_cluster(1) as cluster:
        status = await cluster.client.status("toy")
    chunks = tuple(RequestOutput(f"r{i}", 0, 0, tuple(range(100))) for i in range(40))
    block_hashes = [tuple(bytes([kind, number]) * 16 for number in range(200)) for kind in (0, 1)]
    whole = EngineOutputs(("a", "b"), (), chunks, status, block_hashes[0], block_hashes[1])
    writer = Writer()
    _Connection(0, writer, SEAL, max_bytes).report(whole)
    frames = writer.frames
    assert all(len(msgspec.msgpack.encode(Report(frame))) <= max_bytes for frame in frames)
    assert (len(frames) == 1) == (max_bytes == 100_000)
    told = [
        [item for frame in frames for item in getattr(frame, name)]
        for name in ("removed_blocks", "stored_blocks", "chunks")
    ]
    assert told == [list(block_hashes[1]), list(block_hashes[0]), list(chunks)]
    assert [one for frame in frames for one in frame.accepted] == ["a", "b"] and frames[0].accepted == ("a", "b")
    kinds = [name for frame in frames for name in ("removed_blocks", "stored_blocks", "chunks") if getattr(frame, name)]
    assert kinds == sorted(kinds, key=["removed_blocks", "stored_blocks", "chunks"].index)


async def test_a_chunk_that_is_too_large_alone_ends_its_request():
    async with local_cluster(1) as cluster:
        status = await cluster.client.status("toy")
    writer = Writer()
    chunk = RequestOutput("r", 0, 3, tuple(range(10_000)))
    _Connection(0, writer, SEAL, 5_000).report(EngineOutputs((), (), (chunk,), status))
    (frame,) = writer.frames
    (end,) = frame.chunks
    assert (end.request_id, end.start, end.tokens, end.finish_reason) == ("r", 3, (), "error")
    assert "5000 bytes (wire.max_frame_bytes)" in end.error
