"""OpenTelemetry: the server span of each sampled request, its children when it has ended, and the exporter."""

import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers

from configs.load import ConfigError
from configs.schema import TracesConfig
from serve_app.logs.request_record import RequestFacts, RequestRecord, TraceHandle
from serve_app.tracing.spans import child_spans, root_attributes

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Tracer", "check_extra", "load_tracer"]

CONTEXT_HEADERS = ("traceparent", "tracestate")
EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def check_extra(config: TracesConfig) -> None:
    """Raises ConfigError where the exporter is not installed."""
    try:
        is_missing = importlib.util.find_spec(f"{EXPORTER}.trace_exporter") is None
    except ModuleNotFoundError:
        is_missing = True
    if is_missing:
        raise ConfigError(
            f"api.traces.exporter: {config.exporter!r} needs OpenTelemetry's exporter: pip install 'manta-serve[otel]'"
        )


def load_tracer(config: TracesConfig, version: str) -> "Tracer":
    """The tracer of a config whose traces are not off. Raises ConfigError."""
    check_extra(config)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from serve_app.tracing.logging_exporter import LoggingExporter

    for name in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log each try; LoggingExporter says it once a minute
    return Tracer(LoggingExporter(OTLPSpanExporter(endpoint=config.endpoint)), config.sample_ratio, version)


class Tracer:
    """A BeginTrace. Spans are exported by a thread."""

    def __init__(self, exporter: "SpanExporter", sample_ratio: float, version: str, *, is_batched: bool = True) -> None:
        """`is_batched`: False exports each span at once, for tests."""
        from opentelemetry.context import Context
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come first
        about = Resource.create({"service.name": "manta", "service.version": version})
        resource = about.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(ParentBased(TraceIdRatioBased(sample_ratio)), resource)
        processor = BatchSpanProcessor(exporter) if is_batched else SimpleSpanProcessor(exporter)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("manta", version)
        self._propagator = TraceContextTextMapPropagator()
        self._empty, self._kind = Context(), SpanKind.SERVER

    def begin(self, record: RequestRecord, headers: Headers) -> TraceHandle | None:
        carrier = {name: headers[name] for name in CONTEXT_HEADERS if name in headers}
        parent = self._propagator.extract(carrier, self._empty)
        root = self._tracer.start_span(record.method, parent, self._kind, start_time=_ns(record.unix_s))
        return _Trace(self._tracer, root) if root.is_recording() else None

    def close(self) -> None:
        """Exports what waits."""
        self._provider.shutdown()


class _Trace:
    """A TraceHandle."""

    def __init__(self, tracer: Any, root: Any) -> None:
        self._tracer, self._root = tracer, root
        context = root.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.traceparent = f"00-{self.trace_id}-{context.span_id:016x}-01"

    def end(self, record: RequestRecord, facts: RequestFacts) -> None:
        from opentelemetry.trace import StatusCode, set_span_in_context

        root, start_s = self._root, record.unix_s - record.began_s  # of the monotonic clock, in unix seconds
        root.update_name(f"{facts.method} {facts.route}".rstrip())
        root.set_attributes(root_attributes(record, facts))
        if facts.error and (facts.status >= 500 or facts.status < 400):  # a 4xx is no fault of the server
            root.set_status(StatusCode.ERROR, facts.error)
        context = set_span_in_context(root)
        for one in child_spans(record):
            span = self._tracer.start_span(
                one.name, context, attributes=one.attributes, start_time=_ns(start_s + one.began_s)
            )
            for event in one.events:
                span.add_event(event.name, event.attributes, _ns(start_s + event.at_s))
            span.end(_ns(start_s + max(one.began_s, one.ended_s)))
        root.end(_ns(record.unix_s + facts.duration_s))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
