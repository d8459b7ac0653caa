"""Log formats: lines of text or JSON (api.log_format). What stands in a message cannot forge a line or hide in one."""

import json
import logging
import re
import sys
import time
from typing import TextIO

import msgspec

__all__ = ["JsonFormatter", "LogOptions", "TextFormatter", "configure_logs", "escaped"]

ACCESS_LOGGER = "serve_app.logs.access_log"
PACKAGES = ("serve_app", "cluster", "engine", "kernels", "configs")
# controls (with those of terminals), line and paragraph separators, and what changes the direction of text
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
MAX_CHARS = 8_192  # of a message


class LogOptions(msgspec.Struct, frozen=True):
    format: str = "text"
    level: str = "warning"
    has_access_log: bool = False  # which needs the level info


def escaped(text: str) -> str:
    """The text on one line: as it is but for what could forge another line or rearrange this one."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """TIME LEVEL LOGGER MESSAGE. The lines of a traceback begin with `| `, as no other line does."""

    def format(self, record: logging.LogRecord) -> str:
        message = escaped(record.getMessage()[:MAX_CHARS])
        lines = [f"{_time_of(record)} {record.levelname} {record.name} {message}"]
        lines += [f"| {escaped(line)}" for line in _traceback_of(self, record).split("\n") if line]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One JSON object in ASCII on a line; `fields` of a record are keys of it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time_of(record), "level": record.levelname.lower(), "logger": record.name}
        line["message"] = record.getMessage()[:MAX_CHARS]
        if traceback := _traceback_of(self, record):
            line["exception"] = traceback
        more = {name: value for name, value in getattr(record, "fields", {}).items() if name not in line}
        return json.dumps(line | more).replace("\x7f", "\\u007f")


def configure_logs(options: LogOptions, stream: TextIO = sys.stderr) -> None:
    """Our packages' logs go to `stream`, and nowhere else. Others' stay as they are."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if options.format == "json" else TextFormatter())
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(options.level.upper())
        logger.propagate = False
    access = logging.INFO if options.has_access_log else logging.NOTSET
    logging.getLogger(ACCESS_LOGGER).setLevel(min(access, logging.getLogger(PACKAGES[0]).level))


def _time_of(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""
