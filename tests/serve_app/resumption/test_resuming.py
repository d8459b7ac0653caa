"""Streams that are taken up again: who may, for how long, and what becomes of a request whose client is gone."""

import asyncio
import pickle
import re
import time

import pytest

from configs.schema import ApiConfig, ResumeConfig
from engine.errors import EngineFailed, Overloaded
from serve_app.resumption.records import StreamRecord
from serve_app.transport.errors import NotFound
from tests.serve_app.resumption.lines import Cluster, ask
from tests.serve_app.scripted import ScriptedClient, chat, says
from tests.serve_app.toy import toy_model

URL = "/v1/chat/completions"
BODY = chat("hi", stream=True)
KEY = {"Idempotency-Key": "mine"}
TEXT = "abcdefgh"
SLOW = [item for piece in says(TEXT) for item in (piece, 0.05)]
URLS = {
    URL: BODY,
    "/v1/completions": {"prompt": "hi", "stream": True},
    "/v1/messages": {"messages": BODY["messages"], "max_tokens": 20, "stream": True},
    "/v1/responses": {"input": "hi", "stream": True},
}


def resuming(**fields):
    return ApiConfig(resume=ResumeConfig(**fields))


def as_(key):
    return {"Authorization": f"Bearer {key}"}


async def test_streams_have_ids_where_a_client_asks_for_them():
    ingress = Cluster(toy_model()).ingress(ScriptedClient(says(TEXT)))
    plain = await ask(ingress, URL, BODY)
    assert b"id: " not in plain.body and b"retry" not in plain.body
    with_ids = await ask(ingress, URL, BODY, KEY)
    assert with_ids.last_id.endswith(f".{with_ids.num_events - 1}")


@pytest.mark.parametrize("path", URLS)
async def test_a_server_can_make_every_stream_resumable(path):
    cluster = Cluster(toy_model(), resuming(streams="all"))
    first, second = (cluster.ingress(ScriptedClient(says(TEXT))) for _ in range(2))
    whole = await ask(first, path, URLS[path])
    begun = await ask(first, path, URLS[path], cut=len(whole.body) // 2)
    rest = await ask(second, path, None, {"Last-Event-ID": begun.last_id})
    assert begun.num_events + rest.num_events == whole.num_events
    assert begun.last_id.partition(".")[0] != whole.last_id.partition(".")[0]


async def test_where_streams_cannot_be_resumed_ids_are_not_there():
    ingress = Cluster(toy_model(), resuming(streams="off")).ingress(ScriptedClient(says(TEXT)))
    assert b"id: " not in (await ask(ingress, URL, BODY, KEY)).body


async def test_a_disconnected_client_that_did_not_ask_frees_its_request():
    client = ScriptedClient(SLOW)
    await ask(Cluster(toy_model()).ingress(client), URL, BODY, cut=300)
    assert client.num_closed == 1


async def test_a_request_goes_on_for_some_time_without_its_client():
    client = ScriptedClient([*says("ab", finish=None), 60.0])
    ingress = Cluster(toy_model(), resuming(grace_s=0.3)).ingress(client)
    began_s = time.monotonic()
    await ask(ingress, URL, BODY, KEY, cut=300)
    assert not client.num_closed
    await asyncio.wait_for(client.closed.wait(), 30)
    assert time.monotonic() - began_s > 0.3


async def test_a_client_that_comes_back_keeps_it_going():
    client = ScriptedClient(SLOW)
    ingress = Cluster(toy_model(), resuming(grace_s=0.2)).ingress(client)
    begun = await ask(ingress, URL, BODY, KEY, cut=300)
    rest = await ask(ingress, URL, BODY, {"Last-Event-ID": begun.last_id})
    assert len(client.requests) == 1 and rest.body.endswith(b"data: [DONE]\n\n")
    assert begun.num_events + rest.num_events == 1 + len(TEXT) + 2  # the role, the stop token's, [DONE]


async def test_streams_that_clients_come_back_to_are_counted_by_where_their_events_come_from():
    cluster = Cluster(toy_model())
    first, second = (cluster.ingress(ScriptedClient(says(TEXT))) for _ in range(2))
    begun = await ask(first, URL, BODY, KEY, cut=400)
    assert await resumed(first) == {}
    await ask(first, URL, None, {"Last-Event-ID": begun.last_id})
    await ask(second, URL, BODY, KEY)
    assert (await resumed(first), await resumed(second)) == ({"kept": "1"}, {"generated": "1"})


async def resumed(ingress):
    page = await ask(ingress, "/metrics", None, method="GET")
    return dict(re.findall(r'^manta_resumed_streams_total\{source="(\w+)"\} (\d+)$', page.body.decode(), re.MULTILINE))


async def test_the_end_of_a_stream_waits_for_its_client():
    client = ScriptedClient(says(TEXT))
    ingress = Cluster(toy_model()).ingress(client)
    begun = await ask(ingress, URL, BODY, KEY, cut=300)
    await asyncio.sleep(0.05)
    assert client.num_closed == 1
    await ask(ingress, URL, BODY, {"Last-Event-ID": begun.last_id})
    assert len(client.requests) == 1
    # who had the end has it: what comes later is generated again
    await ask(ingress, URL, BODY, {"Last-Event-ID": begun.last_id})
    assert len(client.requests) == 2


async def test_ends_beyond_the_limit_are_dropped():
    client = ScriptedClient(says(TEXT))
    ingress = Cluster(toy_model(), resuming(max_bytes=4000, max_bytes_per_key=4000)).ingress(client)
    begun = [await ask(ingress, URL, BODY, {"Idempotency-Key": name}, cut=300) for name in "abc"]
    await asyncio.sleep(0.05)
    for one, num_asked in ((begun[2], 3), (begun[0], 4)):
        rest = await ask(ingress, URL, BODY, {"Last-Event-ID": one.last_id})
        assert rest.status == 200 and len(client.requests) == num_asked


async def test_a_run_ends_when_its_client_has_gone_on_at_another_ingress():
    clients = [ScriptedClient([*says("ab", finish=None), 60.0]), ScriptedClient(says("abc"))]
    cluster = Cluster(toy_model())
    first, second = (cluster.ingress(client) for client in clients)
    begun = await ask(first, URL, BODY, KEY, cut=300)
    assert (await ask(second, URL, None, {"Last-Event-ID": begun.last_id})).status == 200
    await asyncio.wait_for(clients[0].closed.wait(), 30)


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_a_stream_is_ended_at_any_ingress(is_elsewhere):
    client = ScriptedClient([*says("ab", finish=None), 60.0])
    cluster = Cluster(toy_model(), ApiConfig(api_keys=("alices", "bobs")))
    ingresses = [cluster.ingress(one) for one in (client, ScriptedClient())]
    begun = await ask(ingresses[0], URL, BODY, KEY | as_("alices"), cut=300)
    path = "/v1/streams/" + begun.last_id.partition(".")[0]
    for key, status in (("bobs", 404), ("alices", 204), ("alices", 404)):
        assert (await ask(ingresses[is_elsewhere], path, None, as_(key), method="DELETE")).status == status
    await asyncio.wait_for(client.closed.wait(), 30)
    assert (await ask(ingresses[0], URL, BODY, {"Last-Event-ID": begun.last_id} | as_("alices"))).status == 404


async def test_two_requests_with_one_key_are_one():
    client = ScriptedClient(SLOW)
    ingress = Cluster(toy_model()).ingress(client)
    answers = await asyncio.gather(*(ask(ingress, URL, BODY, KEY) for _ in range(3)))
    assert len(client.requests) == 1 and len({answer.body for answer in answers}) == 1


async def test_a_key_is_of_one_route():
    cluster = Cluster(toy_model())
    ingress = cluster.ingress(ScriptedClient(says(TEXT)))
    ids = {(await ask(ingress, path, body, KEY)).last_id.partition(".")[0] for path, body in URLS.items()}
    assert len(ids) == len(URLS)


async def test_another_body_under_a_key_is_refused():
    ingress = Cluster(toy_model()).ingress(ScriptedClient(says(TEXT)))
    begun = await ask(ingress, URL, BODY, KEY)
    for header in (KEY, {"Last-Event-ID": begun.last_id}):
        answer = await ask(ingress, URL, chat("other", stream=True), header)
        assert answer.status == 400 and f'"param":"{next(iter(header))}"'.encode() in answer.body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Last-Event-ID": "17"}, 400),
        ({"Last-Event-ID": "x" * 500}, 400),
        ({"Last-Event-ID": "0" * 32 + ".7"}, 404),
        ({"Last-Event-ID": "0" * 32 + ".7", **KEY}, 404),
        ({"Idempotency-Key": "x" * 257}, 400),
    ],
)
async def test_what_names_no_stream_is_refused(headers, status):
    answer = await ask(Cluster(toy_model()).ingress(ScriptedClient(says(TEXT))), URL, BODY, headers)
    assert answer.status == status and f'"param":"{next(iter(headers))}"'.encode() in answer.body


async def test_an_event_that_was_never_sent_is_refused():
    ingress = Cluster(toy_model()).ingress(ScriptedClient(says(TEXT)))
    begun = await ask(ingress, URL, BODY, KEY)
    headers = {"Last-Event-ID": begun.last_id.partition(".")[0] + ".999"}
    assert (await ask(ingress, URL, BODY, headers)).status == 404


async def test_no_key_resumes_another_ones_stream():
    cluster = Cluster(toy_model(), ApiConfig(api_keys=("alices", "bobs")))
    first, second = (cluster.ingress(ScriptedClient(says(TEXT))) for _ in range(2))
    begun = await ask(first, URL, BODY, KEY | as_("alices"), cut=300)
    for ingress in (first, second):
        answer = await ask(ingress, URL, BODY, {"Last-Event-ID": begun.last_id} | as_("bobs"))
        assert answer.status == 404
        assert (await ask(ingress, URL, BODY, KEY | as_("bobs"))).last_id.partition(".")[0] not in begun.last_id
        assert (await ask(ingress, URL, BODY, {"Last-Event-ID": begun.last_id} | as_("alices"))).status == 200
    sealed = b"".join(entry.data for entry in cluster.stores["streams"]._entries.values())
    assert sealed and TEXT.encode() not in sealed and b"messages" not in sealed


async def test_an_old_stream_is_gone():
    cluster = Cluster(toy_model(), resuming(age_s=0.1))
    ingress = cluster.ingress(ScriptedClient(says(TEXT)))
    begun = await ask(ingress, URL, BODY, KEY)
    await asyncio.sleep(0.15)
    assert (await ask(ingress, URL, BODY, {"Last-Event-ID": begun.last_id})).status == 404


def test_a_stream_of_another_version_of_the_server_is_gone():
    record = StreamRecord("/", b"", "toy", "r", 0, "print", prepared=pickle.dumps(time.monotonic))
    with pytest.raises(NotFound, match="Last-Event-ID"):
        record.unpacked()


async def test_a_refused_request_can_be_repeated_under_its_key():
    client = ScriptedClient([Overloaded("full")])
    ingress = Cluster(toy_model()).ingress(client)
    assert (await ask(ingress, URL, BODY, KEY)).status == 429
    client.script = says(TEXT)
    assert (await ask(ingress, URL, BODY, KEY)).body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", URLS)
async def test_a_stream_that_failed_goes_on_where_it_failed(path):
    client = ScriptedClient([*says("abc", finish=None), EngineFailed("broke")])
    ingress = Cluster(toy_model()).ingress(client)
    failed = await ask(ingress, path, URLS[path], KEY)
    assert b"server's log" in failed.body
    number = int(failed.last_id.partition(".")[2])
    client.script = says("abcde")
    rest = await ask(ingress, path, URLS[path], {"Last-Event-ID": failed.last_id})
    assert rest.body.startswith(b"id: %b.%d\n" % (failed.last_id.partition(".")[0].encode(), number + 1))
    whole = await ask(ingress, path, URLS[path], KEY)
    assert whole.body.endswith(rest.body) and b"server's log" not in whole.body


async def test_a_stream_longer_than_what_is_kept_is_generated_again():
    first, *others = says("x" * 600)
    client = ScriptedClient([first, 0.01, *others])
    ingress = Cluster(toy_model(), max_stream_bytes=60_000).ingress(client)
    begun = await ask(ingress, URL, BODY, KEY, cut=2000)
    rest = await ask(ingress, URL, BODY, {"Last-Event-ID": begun.last_id})
    assert len(client.requests) == 2
    assert begun.events + rest.events == (await ask(ingress, URL, BODY, KEY)).body


async def test_what_is_not_streamed_is_as_without_a_key():
    client = ScriptedClient(says(TEXT))
    ingress = Cluster(toy_model()).ingress(client)
    for _ in range(2):
        answer = await ask(ingress, URL, chat("hi"), KEY)
        assert answer.status == 200 and answer.last_id is None
    assert len(client.requests) == 2
