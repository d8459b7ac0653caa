"""The usage ledger: JSON lines of what each request used, written by a thread, rotated by bytes (api.usage_ledger)."""

import logging
import os
import platform
import queue
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from configs.load import ConfigError
from configs.schema import UsageLedgerConfig
from serve_app.logs.ledger_file import LedgerFile, ledger_name
from serve_app.logs.request_record import RequestFacts

__all__ = ["LedgerLine", "UsageLedger"]

logger = logging.getLogger(__name__)

MAX_WAITING = 65_536  # lines, while a disk hangs
LOG_S = 60.0  # between two lines about lost lines


class LedgerLine(msgspec.Struct, frozen=True):
    time: float  # unix seconds
    request_id: str
    key: str  # its name; "": none was needed
    model: str
    api: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int | None
    status: int
    error: str
    finish_reasons: tuple[str, ...]

    @classmethod
    def of(cls, facts: RequestFacts) -> "LedgerLine":
        usage = facts.usage
        return cls(
            round(facts.time, 3),
            facts.request_id,
            facts.key,
            facts.model,
            facts.api,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            usage.reasoning_tokens,
            facts.status,
            facts.error,
            facts.finish_reasons,
        )


class UsageLedger:
    """A RequestSink. Its thread begins with the first line."""

    def __init__(self, config: UsageLedgerConfig, on_lost: Callable[[int], None] = lambda num_lines: None) -> None:
        """Raises ConfigError where nothing can be written.

        on_lost   called with the number of lines that could not be written, in any thread
        """
        assert config.folder is not None
        node = re.sub(r"[^A-Za-z0-9.-]", "-", platform.node()) or "node"
        self.path = Path(config.folder) / ledger_name(node, os.getpid())
        self._file = LedgerFile(self.path, config)
        self._on_lost, self._logged_s = on_lost, -LOG_S
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="usage-ledger", daemon=True)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file.open()
        except OSError as error:
            raise ConfigError(f"api.usage_ledger.folder: cannot write {self.path}: {error}") from None

    def on_request(self, facts: RequestFacts) -> None:
        if not facts.api:
            return
        if not self._thread.is_alive():
            self._thread.start()
        try:
            self._lines.put_nowait(msgspec.json.encode(LedgerLine.of(facts)) + b"\n")
        except queue.Full:
            self._lose(1, "the disk does not keep up")

    def close(self) -> None:
        """Writes what waits. Nothing may come after it."""
        if self._thread.is_alive():
            self._lines.put(None)
            self._thread.join()
        self._file.close()

    def _run(self) -> None:
        is_open = True
        while is_open:
            lines = [self._lines.get()]
            while not self._lines.empty():
                lines.append(self._lines.get())
            is_open = None not in lines
            batch = [line for line in lines if line is not None]
            num_written = 0
            try:
                for line in batch:
                    self._file.write(line)
                    num_written += 1
                self._file.sync()
            except OSError as error:
                self._lose(len(batch) - num_written, str(error))

    def _lose(self, num_lines: int, why: str) -> None:
        if num_lines:
            self._on_lost(num_lines)
        if time.monotonic() - self._logged_s >= LOG_S:
            self._logged_s = time.monotonic()
            logger.error("lines of the usage ledger %s are lost: %s", self.path, why)
