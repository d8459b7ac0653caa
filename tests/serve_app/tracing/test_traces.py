"""Spans of requests: their tree, through all APIs, errors, disconnects and migrations."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from cluster.server import WireServer
from configs.schema import ApiConfig, Config
from engine.errors import EngineFailed, Overloaded
from engine.types import EngineClient
from serve_app import app
from serve_app.tenants.key_store import KeyStore
from serve_app.tracing.otel import Tracer
from tests.cluster.local import LocalCluster, local_cluster
from tests.serve_app.scripted import WORKERS, ScriptedClient, chat, config, says, talking_to
from tests.serve_app.toy import toy_model

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque"}
REQUESTS = {
    "/v1/chat/completions": chat("a secret prompt"),
    "/v1/completions": {"prompt": "a secret prompt", "max_tokens": 9},
    "/v1/responses": {"input": "a secret prompt", "store": False},
    "/v1/messages": chat("a secret prompt", model="toy", max_tokens=9),
}
STREAM = {"prompt": [5, 6, 7], "max_tokens": 200, "ignore_eos": True, "stream": True, "temperature": 0}


def built(client: EngineClient, tracer: Tracer, settings: Config) -> FastAPI:
    keys = KeyStore(settings, environment={}, secret=b"of all ingresses")
    return app.build_app(client, settings, {"toy": toy_model()}, WORKERS, keys, app.Hosting(traces=tracer))


class Traced:
    """An application whose spans stay in memory."""

    def __init__(self, client: EngineClient, ratio: float = 1.0, api: ApiConfig | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.asgi = built(client, Tracer(self._exporter, ratio, "0", is_batched=False), config(api))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    @property
    def root(self) -> ReadableSpan:
        (root,) = (span for span in self.spans if span.kind == SpanKind.SERVER)
        return root

    def named(self, name: str) -> list[ReadableSpan]:
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time or 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", REQUESTS)
async def test_every_api_has_one_tree_below_its_clients_span(path: str, stream: bool) -> None:
    traced = Traced(ScriptedClient(says("hello", cached=3)))
    async with talking_to(traced.asgi) as http:
        answer = await http.post(path, json={**REQUESTS[path], "stream": stream}, headers=SAMPLED)
    assert answer.status_code == 200 and answer.headers["X-Trace-Id"] == TRACE
    root = traced.root
    assert root.name == f"POST {path}" and root.status.status_code == StatusCode.UNSET
    assert root.parent is not None and f"{root.parent.span_id:016x}" == PARENT
    assert root.context.trace_state.get("vendor") == "opaque"
    assert {f"{span.context.trace_id:032x}" for span in traced.spans} == {TRACE}
    assert {span.parent.span_id for span in traced.spans if span is not root} == {root.context.span_id}
    assert {"read_body", "prepare"} <= {span.name for span in traced.spans}
    shown = dict(root.attributes)
    assert shown["http.response.status_code"] == 200 and shown["http.route"] == path
    assert shown["gen_ai.request.model"] == "toy"
    assert shown["gen_ai.usage.input_tokens"] > 3 and shown["gen_ai.usage.output_tokens"] == 6
    assert shown["gen_ai.usage.cache_read.input_tokens"] == 3
    assert shown["gen_ai.response.finish_reasons"] == ("stop",)
    assert 0 < shown["gen_ai.latency.time_to_first_token"] <= shown["gen_ai.latency.e2e"]
    assert "secret" not in "".join(span.to_json() for span in traced.spans)


async def test_a_template_is_rendered_then_its_text_tokenized() -> None:
    traced = Traced(ScriptedClient(says("a")))
    async with talking_to(traced.asgi) as http:
        await http.post("/v1/chat/completions", json=chat())
    ((prepare,), (template,), (tokenize,)) = map(traced.named, ("prepare", "template", "tokenize"))
    times = [prepare.start_time, template.start_time, template.end_time, tokenize.start_time, tokenize.end_time]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("script", "body", "status", "error", "is_failed"),
    [
        ([Overloaded("full of secrets", 1.0)], {}, 429, "RateLimitError", False),
        ([EngineFailed("secret")], {}, 500, "InternalServerError", True),
        ([*says("a", finish=None), EngineFailed("secret")], {"stream": True}, 200, "EngineFailed", True),
        ([], {"max_tokens": -1, "stream": True}, 400, "BadRequestError", False),
    ],
)
async def test_an_error_is_known_by_its_type_alone(script, body, status, error, is_failed) -> None:
    traced = Traced(ScriptedClient(script))
    async with talking_to(traced.asgi) as http:
        assert (await http.post("/v1/chat/completions", json=chat(**body))).status_code == status
    shown = dict(traced.root.attributes)
    assert shown["error.type"] == error and shown["http.response.status_code"] == status
    assert traced.root.status.status_code == (StatusCode.ERROR if is_failed else StatusCode.UNSET)
    assert "secret" not in "".join(span.to_json() for span in traced.spans)


async def test_the_ratio_decides_for_requests_without_a_parent_alone() -> None:
    client = ScriptedClient(says("a"))
    traced = Traced(client, ratio=0.0)
    async with talking_to(traced.asgi) as http:
        for headers in ({}, {"traceparent": "forged\x01"}, {"traceparent": SAMPLED["traceparent"][:-1] + "0"}, SAMPLED):
            answer = await http.post("/v1/chat/completions", json=chat(), headers=headers)
            assert ("X-Trace-Id" in answer.headers) == (headers is SAMPLED)
    assert [bool(request.traceparent) for request in client.requests] == [False, False, False, True]
    assert f"{traced.root.context.trace_id:032x}" == TRACE


async def test_probes_are_not_traced() -> None:
    traced = Traced(ScriptedClient())
    async with talking_to(traced.asgi) as http:
        await http.get("/health")
        await http.get("/metrics")
    assert traced.spans == ()


@asynccontextmanager
async def deployed(num_replicas: int, ratio: float = 1.0) -> AsyncIterator[tuple[Traced, LocalCluster]]:
    async with local_cluster(num_replicas) as cluster:
        yield Traced(cluster.client, ratio), cluster


async def test_the_spans_of_both_replicas_of_a_migrated_stream_hang_in_one_tree() -> None:
    async with deployed(2) as (traced, cluster):
        await _ask_and_kill(traced, cluster)
    queues, prefills, decodes = map(traced.named, ("queue", "prefill", "decode"))
    (migrate,) = traced.named("migrate")
    assert len(queues) == len(prefills) == len(decodes) == len(traced.named("route")) == 2
    first, second = decodes
    assert {first.attributes["manta.replica"], second.attributes["manta.replica"]} == {"replica-0", "replica-1"}
    assert migrate.attributes["manta.from_replica"] == first.attributes["manta.replica"]
    assert migrate.attributes["manta.to_replica"] == second.attributes["manta.replica"]
    assert migrate.attributes["manta.reason"] and not migrate.attributes["manta.planned"]
    silence_s = (second.start_time - first.end_time) / 1e9
    assert migrate.attributes["manta.silence_s"] == pytest.approx(silence_s, abs=1e-4)
    assert sum(span.attributes["gen_ai.usage.output_tokens"] for span in decodes) == 200
    # the second replica computes prompt and answer again, in one chunk
    (chunk,) = prefills[1].events
    assert chunk.attributes["manta.tokens"] >= first.attributes["gen_ai.usage.output_tokens"]
    assert traced.root.attributes["manta.migrations"] == 1
    for queue, prefill, decode in zip(queues, prefills, decodes, strict=True):
        times = [queue.start_time, queue.end_time, prefill.start_time, prefill.end_time, decode.start_time]
        assert times == sorted(times)
        assert traced.root.start_time <= queue.start_time and decode.end_time <= traced.root.end_time
    assert {span.context.trace_id for span in traced.spans} == {traced.root.context.trace_id}


async def _ask_and_kill(traced: Traced, cluster: LocalCluster, **options: object) -> None:
    """Asks for an answer, and kills the replica that has it in its middle: 200 steps take 0.6 s."""
    asked = asyncio.create_task(_ask_once(traced, options))
    async with asyncio.timeout(30):
        while not (busy := [at for at, server in cluster.servers.items() if _num_generated(server) >= 30]):
            await asyncio.sleep(0.005)
    await cluster.kill(busy[0])
    assert await asked == 200


def _num_generated(server: WireServer) -> int:
    return server.engine_thread.status.num_generated_tokens


async def _ask_once(traced: Traced, options: dict[str, object]) -> int:
    async with talking_to(traced.asgi) as http:
        return (await http.post("/v1/completions", json={**STREAM, "stream": False, **options})).status_code


async def test_each_choice_of_a_migrated_request_has_spans_on_each_replica() -> None:
    async with deployed(2) as (traced, cluster):
        await _ask_and_kill(traced, cluster, n=3, temperature=1, seed=1)
    (migrate,) = traced.named("migrate")
    both = [(replica, choice) for replica in ("replica-0", "replica-1") for choice in range(3)]
    for name in ("queue", "prefill", "decode"):
        spans = traced.named(name)
        assert sorted((span.attributes["manta.replica"], span.attributes["manta.choice"]) for span in spans) == both
    before, after = (
        [span for span in traced.named("decode") if span.attributes["manta.replica"] == migrate.attributes[end]]
        for end in ("manta.from_replica", "manta.to_replica")
    )
    # nobody's first replica has the silence, nor the tokens of the second one
    assert max(span.end_time for span in before) == pytest.approx(migrate.start_time, abs=1e5)
    assert min(span.start_time for span in after) == pytest.approx(migrate.end_time, abs=1e5)
    tokens = {choice: 0 for choice in range(3)}
    for span in before + after:
        assert span.attributes["gen_ai.usage.output_tokens"] > 0
        tokens[span.attributes["manta.choice"]] += span.attributes["gen_ai.usage.output_tokens"]
    assert tokens == {0: 200, 1: 200, 2: 200}


async def test_a_client_that_leaves_ends_its_trace() -> None:
    async with deployed(1) as (traced, cluster):
        body, sent = json.dumps(STREAM).encode(), asyncio.Event()
        messages = [{"type": "http.request", "body": body}]

        async def receive():
            if messages:
                return messages.pop()
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message.get("body"):
                sent.set()

        headers = [(b"host", b"test"), (b"content-type", b"application/json")]
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/completions"}
        more = {"headers": headers, "query_string": b"", "root_path": "", "scheme": "http", "server": ("test", 80)}
        await traced.asgi(scope | more, receive, send)
        await cluster.until_idle()
    shown = dict(traced.root.attributes)
    assert shown["error.type"] == "ClientDisconnected" and 0 < shown["gen_ai.usage.output_tokens"] < 200
    assert len(traced.named("decode")) == 1


async def test_choices_have_spans_of_their_own() -> None:
    async with deployed(1) as (traced, _), talking_to(traced.asgi) as http:
        body = {**STREAM, "stream": False, "n": 3, "max_tokens": 5, "temperature": 1, "seed": 1}
        await http.post("/v1/completions", json=body)
        assert sorted(span.attributes["manta.choice"] for span in traced.named("decode")) == [0, 1, 2]
        assert len(traced.named("route")) == 1


async def test_a_client_that_comes_back_to_its_stream_says_so() -> None:
    traced = Traced(ScriptedClient(says("hello")))
    async with talking_to(traced.asgi) as http:
        headers = {"Idempotency-Key": "one"}
        for _ in range(2):
            await http.post("/v1/completions", json={"prompt": "hi", "stream": True}, headers=headers)
    first, second = (span for span in traced.spans if span.kind == SpanKind.SERVER)
    assert "gen_ai.usage.output_tokens" in first.attributes
    assert len(traced.named("resume")) == 2
