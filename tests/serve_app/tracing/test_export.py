"""Export: by OTLP to a collector on loopback; what is not installed or does not answer."""

import importlib.util
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from configs.load import ConfigError
from configs.schema import TracesConfig
from serve_app.tracing.logging_exporter import LoggingExporter
from serve_app.tracing.otel import check_extra, load_tracer
from tests.serve_app.scripted import ScriptedClient, chat, config, says, talking_to
from tests.serve_app.tracing.test_traces import built


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    got: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            got.append(ExportTraceServiceRequest.FromString(gzip.decompress(body) if packed else body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", got
    server.shutdown()
    thread.join()
    server.server_close()


async def test_spans_arrive_at_a_collector(collector: tuple[str, list[ExportTraceServiceRequest]]) -> None:
    url, got = collector
    tracer = load_tracer(TracesConfig(exporter="otlp", endpoint=url), "1.2")
    async with talking_to(built(ScriptedClient(says("a")), tracer, config())) as http:
        await http.post("/v1/chat/completions", json=chat())
    tracer.close()
    resources = [resource for request in got for resource in request.resource_spans]
    names = [span.name for one in resources for scope in one.scope_spans for span in scope.spans]
    assert {"POST /v1/chat/completions", "template"} <= set(names)
    about = {pair.key: pair.value.string_value for pair in resources[0].resource.attributes}
    assert (about["service.name"], about["service.version"]) == ("manta", "1.2")


def test_a_collector_that_does_not_answer_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Dead(InMemorySpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            raise ConnectionError("refused")

    exporter = LoggingExporter(Dead())
    assert [exporter.export(()) for _ in range(5)] == [SpanExportResult.FAILURE] * 5
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_missing_extra_is_a_fault_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"api\.traces\.exporter: .*pip install 'manta-serve\[otel\]'"):
        check_extra(TracesConfig(exporter="otlp"))


def test_nothing_is_imported_while_traces_are_off() -> None:
    code = "import sys, serve_app.app; sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=50).returncode == 0
