"""A background response whose ingress is gone goes on at the next one that is asked for it."""

import asyncio
import json
from collections.abc import AsyncGenerator

from engine.types import GenerateRequest, RequestOutput
from tests.serve_app.resumption.lines import Cluster, ask
from tests.serve_app.scripted import ScriptedClient, says
from tests.serve_app.toy import toy_model

URL = "/v1/responses"
TEXT = "abcdefgh"
BODY = {"input": "hi", "background": True}


class StuckClient(ScriptedClient):
    """Says half of it, and then nothing: its ingress is as good as dead."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        self.script = [*says(TEXT)[:4], 600.0]
        async for output in super().generate(request):
            yield output


async def begun(cluster, is_streamed=False):
    """The id of a response that nobody runs any more, and the events that its client has."""
    cut = 1200 if is_streamed else None
    answer = await ask(cluster.ingress(StuckClient()), URL, BODY | {"stream": is_streamed}, cut=cut)
    events = read(answer.events) if is_streamed else []
    id_ = events[0]["response"]["id"] if is_streamed else json.loads(answer.body)["id"]
    await cluster.stores["responses"].put("", f"alive:{id_}", b"0 another")
    return id_, events


def read(events):
    return [json.loads(line[6:]) for line in events.split(b"\n") if line.startswith(b"data: ")]


async def ended(ingress, id_):
    async with asyncio.timeout(20):
        while (found := json.loads((await ask(ingress, f"{URL}/{id_}", None, method="GET")).body)) and found[
            "status"
        ] in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
    return found


async def test_a_get_at_another_ingress_takes_it_over():
    cluster = Cluster(toy_model())
    id_, _ = await begun(cluster)
    ingress = cluster.ingress(ScriptedClient(says(TEXT)))
    found = await ended(ingress, id_)
    assert found["status"] == "completed" and found["id"] == id_
    assert found["output"][0]["content"][0]["text"] == TEXT


async def test_its_stream_goes_on_behind_the_last_event():
    cluster = Cluster(toy_model())
    id_, first = await begun(cluster, is_streamed=True)
    ingress = cluster.ingress(ScriptedClient(says(TEXT)))
    path = f"{URL}/{id_}?stream=true&starting_after={first[-1]['sequence_number']}"
    rest = read((await ask(ingress, path, None, method="GET")).events)
    assert [event["sequence_number"] for event in first + rest] == list(range(len(first + rest)))
    assert rest[-1]["type"] == "response.completed"
    again = read((await ask(ingress, f"{URL}/{id_}?stream=true", None, method="GET")).events)
    assert again == first + rest


async def test_of_many_that_ask_at_once_one_takes_it_over():
    cluster = Cluster(toy_model())
    id_, _ = await begun(cluster)
    clients = [ScriptedClient(says(TEXT)) for _ in range(4)]
    await asyncio.gather(*(ended(cluster.ingress(client), id_) for client in clients))
    assert sum(len(client.requests) for client in clients) == 1


async def test_it_is_cancelled_without_being_generated_again():
    cluster = Cluster(toy_model())
    id_, _ = await begun(cluster)
    client = ScriptedClient(says(TEXT))
    answer = await ask(cluster.ingress(client), f"{URL}/{id_}/cancel", None, method="POST")
    assert json.loads(answer.body)["status"] == "cancelled" and not client.requests


async def test_one_whose_request_is_no_longer_kept_has_failed():
    cluster = Cluster(toy_model())
    id_, _ = await begun(cluster)
    cluster.stores["streams"]._entries.clear()
    found = await ended(cluster.ingress(ScriptedClient(says(TEXT))), id_)
    assert found["status"] == "failed" and "has stopped" in found["error"]["message"]


async def test_a_runner_that_has_lost_its_lease_stops_and_changes_nothing():
    cluster, client = Cluster(toy_model()), StuckClient()
    made = json.loads((await ask(cluster.ingress(client), URL, BODY)).body)
    await cluster.stores["responses"].put("", f"alive:{made['id']}", b"0 another")
    await asyncio.wait_for(client.closed.wait(), 10)
    found = await ended(cluster.ingress(ScriptedClient(says(TEXT))), made["id"])
    assert found["status"] == "completed"
