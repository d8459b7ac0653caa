"""The access line, the ledger and the totals of keys, from requests over HTTP."""

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from configs.schema import ApiConfig, UsageLedgerConfig
from engine.errors import EngineFailed
from serve_app import app
from serve_app.tenants.key_store import KeyStore
from tests.serve_app.scripted import WORKERS, ScriptedClient, chat, config, says, serving, talking_to
from tests.serve_app.toy import toy_model

ON = ApiConfig(access_log=True)
LOGGER = "serve_app.logs.access_log"


def fields(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [record.fields for record in caplog.records if record.name == LOGGER]


async def test_a_line_has_what_became_known_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with serving(ScriptedClient(says("hello", cached=3)), ON) as http:
        await http.post("/v1/chat/completions", json=chat("a secret", stream=True), headers={"X-Request-Id": "mine"})
        await http.get("/v1/models/none")
        await http.get("/health")
    asked, models = fields(caplog)
    times = asked.pop("first_token_s"), asked.pop("duration_s")
    assert 0 < times[0] <= times[1]
    assert asked == {
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "model": "toy",
        "prompt_tokens": 25,
        "cached_tokens": 3,
        "completion_tokens": 6,
        "finish_reason": "stop",
        "migrations": 0,
        "request_id": "mine",
    }
    assert (models["route"], models["status"], models["error"]) == ("/v1/models/{model:path}", 404, "NotFoundError")
    assert "secret" not in caplog.text


async def test_names_of_a_client_stand_in_no_line_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with serving(ScriptedClient(says("a")), ON) as http:
        await http.post("/v1/chat/completions", json=chat(model="x\nforged", request_id="r\r\n\x1b[2Jforged"))
        await http.post("/forged%0Aline", json={})
    assert [(line["route"], line["status"], "model" in line) for line in fields(caplog)] == [
        ("/v1/chat/completions", 404, False),
        ("-", 404, False),
    ]
    assert all(record.getMessage().isprintable() for record in caplog.records if record.name == LOGGER)


@pytest.mark.parametrize(
    ("script", "body", "status", "error"),
    [
        ([EngineFailed("x")], {}, 500, "InternalServerError"),
        ([*says("a", finish=None), EngineFailed("x")], {"stream": True}, 200, "EngineFailed"),
        ([], {"temperature": -1}, 400, "BadRequestError"),
    ],
)
async def test_an_error_has_its_type(script, body, status, error, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with serving(ScriptedClient(script), ON) as http:
        await http.post("/v1/chat/completions", json=chat(**body), headers={"X-Request-Id": "mine"})
    (line,) = fields(caplog)
    assert (line["status"], line["error"]) == (status, error)
    failures = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert all("under request mine" in message for message in failures) and len(failures) == (status != 400)


async def test_a_stream_that_is_generated_again_counts_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with serving(ScriptedClient(says("hello")), ON) as http:
        for _ in range(2):
            headers = {"Idempotency-Key": "one"}
            await http.post("/v1/completions", json={"prompt": "hi", "stream": True}, headers=headers)
    assert [line.get("completion_tokens") for line in fields(caplog)] == [6, 6]


async def test_a_background_response_is_written_once_with_its_tokens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with serving(ScriptedClient([0.05, *says("hello")]), ON) as http:
        await http.post("/v1/responses", json={"input": "hi", "background": True})
        async with asyncio.timeout(30):
            while not fields(caplog):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)
    assert [line.get("completion_tokens") for line in fields(caplog)] == [6]


async def test_without_any_of_them_there_is_no_record() -> None:
    asgi = app.build_app(ScriptedClient(), config(), {"toy": toy_model()}, WORKERS, KeyStore(config(), environment={}))
    assert "RecordRequests" not in [one.cls.__name__ for one in asgi.user_middleware]


async def test_tokens_are_totaled_for_each_key_and_written_to_the_ledger(tmp_path: Path) -> None:
    usage = UsageLedgerConfig(folder=str(tmp_path), metrics=True)
    settings = config(ApiConfig(usage_ledger=usage))
    keys = KeyStore(settings, environment={"MANTA_API_KEYS": "alice=sk-alice-secret,bob=sk-bob-secret"})
    told: list[tuple[object, ...]] = []

    class Export:
        def on_usage(self, *counts: object) -> None:
            told.append(counts)

        def on_lost_lines(self, num_lines: int) -> None:
            raise AssertionError

    client = ScriptedClient(says("hello", cached=3))
    asgi = app.build_app(client, settings, {"toy": toy_model()}, WORKERS, keys, app.Hosting(usage=Export()))
    async with talking_to(asgi) as http:
        for name, count in (("alice", 2), ("bob", 1), ("mallory", 1)):
            for _ in range(count):
                headers = {"Authorization": f"Bearer sk-{name}-secret"}
                await http.post("/v1/completions", json={"prompt": "hello", "max_tokens": 9}, headers=headers)
        page = (await http.get("/metrics")).text
    found = {
        (sample.name, sample.labels.get("key")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("manta_")
    }
    assert found[("manta_key_requests_total", "alice")] == 2 and found[("manta_key_requests_total", "bob")] == 1
    assert found[("manta_key_completion_tokens_total", "alice")] == 12
    assert found[("manta_key_cached_tokens_total", "alice")] == 6
    assert found[("manta_usage_ledger_lost_lines_total", None)] == 0
    assert {key for _, key in found} == {"alice", "bob", None}
    assert [key for key, *_ in told] == ["alice", "alice", "bob"]
    (path,) = tmp_path.iterdir()
    async with asyncio.timeout(30):
        while len(lines := path.read_bytes().splitlines()) < 4:
            await asyncio.sleep(0.01)
    written = [msgspec.json.decode(line) for line in lines]
    assert [(line["key"], line["status"]) for line in written] == [
        ("alice", 200),
        ("alice", 200),
        ("bob", 200),
        ("", 401),
    ]
    assert b"secret" not in path.read_bytes()
