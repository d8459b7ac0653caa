"""Builds what is written about requests, as the config says: traces, access log, usage ledger, usage by API key."""

from configs.schema import ApiConfig
from serve_app.logs.access_log import AccessLog
from serve_app.logs.request_record import RequestSink
from serve_app.logs.usage_ledger import UsageLedger
from serve_app.metrics.key_usage import ExportUsage, KeyUsage
from serve_app.tracing.otel import Tracer, load_tracer

__all__ = ["RequestLogs"]


class RequestLogs:
    def __init__(self, config: ApiConfig, version: str, traces: Tracer | None, usage: ExportUsage | None) -> None:
        """Raises ConfigError.

        traces   None: as the config says
        usage    counts usage by API keys elsewhere too
        """
        ledger = config.usage_ledger
        has_usage = ledger.folder is not None or ledger.metrics
        self.traces = traces or (load_tracer(config.traces, version) if config.traces.exporter != "off" else None)
        self.key_usage = KeyUsage(usage, has_keys=ledger.metrics) if has_usage else None
        self.sinks: list[RequestSink] = []
        self._ledger = None
        if config.access_log:
            self.sinks.append(AccessLog())
        if self.key_usage is not None:
            self.sinks.append(self.key_usage)
            if ledger.folder is not None:
                self._ledger = UsageLedger(ledger, self.key_usage.on_lost_lines)
                self.sinks.append(self._ledger)

    @property
    def are_on(self) -> bool:
        return bool(self.sinks) or self.traces is not None

    def close(self) -> None:
        """Writes and exports what waits. Blocks."""
        if self._ledger is not None:
            self._ledger.close()
        if self.traces is not None:
            self.traces.close()
