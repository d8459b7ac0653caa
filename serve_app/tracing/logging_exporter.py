"""An exporter of spans that logs failures at most once a minute. Imports opentelemetry."""

import logging
import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

__all__ = ["LoggingExporter"]

logger = logging.getLogger(__name__)

LOG_S = 60.0  # between two lines about a collector that does not answer


class LoggingExporter(SpanExporter):
    """Runs in the thread of the span processor."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._logged_s, self._num_lost = -LOG_S, 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            logger.debug("export: %r", error)
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._num_lost += len(spans)
            if time.monotonic() - self._logged_s >= LOG_S:
                self._logged_s = time.monotonic()
                logger.warning("the collector of traces does not take them: %d spans are lost", self._num_lost)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
