"""What is recorded of an answer, and how it is replayed."""

from engine.types import GenerateRequest, RequestOutput, SamplingParams, TokenSpan
from serve_app.generation.choice import ChoiceDelta
from serve_app.result_cache.replay import ChunkRecorder, ReplayClient
from serve_app.text.message_delta import MessageDelta
from tests.serve_app.scripted import ScriptedClient


def delta(request_id, token, reason=None):
    chunk = RequestOutput(request_id, 0, 0, (token,), reason, num_migrations=3)
    return ChoiceDelta(0, chunk, MessageDelta(), (token,), finish_reason=reason)


def recorded(*deltas, is_complete=True):
    kept = []
    recorder = ChunkRecorder(["r0", "r1"], kept.append)
    recorder.on_start(None)
    for one in deltas:
        recorder.on_delta(one)
    recorder.on_end(is_complete=is_complete, error=None)
    return kept


def test_chunks_are_kept_by_their_request_without_what_was_this_answers_alone():
    (chunks,) = recorded(delta("r1", 7), delta("r0", 8, "stop"))
    assert chunks == [(1, RequestOutput("", 0, 0, (7,))), (0, RequestOutput("", 0, 0, (8,), "stop"))]


def test_what_was_aborted_or_not_taken_to_its_end_is_not_kept():
    assert recorded(delta("r0", 7, "abort")) == []
    assert recorded(delta("r0", 7, "stop"), is_complete=False) == []


async def test_a_replay_answers_under_the_new_requests_id():
    chunks = [(1, RequestOutput("", 0, 0, (7,))), (0, RequestOutput("", 0, 0, (8,), "stop"))]
    engine = ScriptedClient()
    client = ReplayClient(engine, ["new0", "new1"], chunks)
    asked = GenerateRequest(
        request_id="new1", model="toy", inputs=(TokenSpan((5,)),), sampling=SamplingParams(max_tokens=1)
    )
    assert [chunk async for chunk in client.generate(asked)] == [RequestOutput("new1", 0, 0, (7,))]
    client.stop_choice("new1", 0)
    assert engine.requests == [] and engine.stopped == []
    assert (await client.status("toy")).model == "toy"
