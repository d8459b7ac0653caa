"""What the paced benchmark stands on: an engine that keeps its pace, and a client that counts right."""

import asyncio
import random
import time

from engine.engine import Engine
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from scripts.bench.paced_client import END, Samples, _Stream
from scripts.bench.stub_engine import StubExecutor


def test_the_stand_in_keeps_its_pace_and_its_tokens() -> None:
    def run(step_s: float, num_streams: int) -> tuple[list[int], float]:
        engine = Engine(StubExecutor(range(50), step_s), "stub")
        for number in range(num_streams):
            sampling = SamplingParams(max_tokens=20, seed=number)
            prompt = (number, 1)
            engine.submit(
                GenerateRequest(request_id=str(number), model="stub", inputs=(TokenSpan(prompt),), sampling=sampling)
            )
        tokens, began_s = [], time.monotonic()
        while engine.has_work:
            tokens += [token for chunk in engine.step() if chunk.request_id == "0" for token in chunk.tokens]
        return tokens, time.monotonic() - began_s

    alone, _ = run(0.0, 1)
    crowd, took_s = run(0.005, 20)
    assert crowd == alone and len(alone) == 20 and len(set(alone)) > 5
    assert took_s >= 19 * 0.005


class _Recorder(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.num_written = 0
        self.is_closed = False

    def write(self, data: object) -> None:
        self.num_written += 1

    def close(self) -> None:
        self.is_closed = True


async def test_every_token_is_counted_however_the_bytes_are_cut() -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":" a"},"logprobs":null}]}\n\n'
    role = event.replace(b'"content":" a"', b'"role":"assistant","content":""')
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + role + 30 * event + b"data: [DONE]\n\n" + b"\r\n" + END
    rng = random.Random(0)
    for _ in range(200):
        samples, transport = Samples([], [], []), _Recorder()
        stream = _Stream(lambda: b"ask", time.monotonic() + 60, samples)
        stream.connection_made(transport)
        cuts = sorted(rng.sample(range(1, len(answer)), rng.randrange(40)))
        for start, stop in zip([0, *cuts], [*cuts, len(answer)], strict=True):
            stream.data_received(answer[start:stop])
        assert len(samples.arrived_s) == 30
        assert (len(samples.first_token_s), len(samples.gaps_s)) == (1, 29)
        assert transport.num_written == 2 and not transport.is_closed, "the next request follows the answer"
