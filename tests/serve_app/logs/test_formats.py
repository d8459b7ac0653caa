"""Log lines: nothing in a message forges a line, hides in one or moves a terminal's cursor."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from serve_app.logs.formats import PACKAGES, LogOptions, configure_logs

EVIL = "a\n2026-01-01 ERROR forged\r\x1b[2J\x9b31m\x7f\u2028b\u202ec\ud800d"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    yield io.StringIO()
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)
    logging.getLogger("serve_app.logs.access_log").setLevel(logging.NOTSET)


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_message_is_one_line_whatever_it_has(kind: str, written: io.StringIO) -> None:
    configure_logs(LogOptions(kind), written)
    logging.getLogger("cluster.link").warning("lost %s", EVIL)
    (line,) = written.getvalue().splitlines()
    assert line.isprintable() and "forged" in line
    if kind == "json":
        assert json.loads(line)["message"] == f"lost {EVIL}" and json.loads(line)["logger"] == "cluster.link"


@pytest.mark.parametrize("kind", ["text", "json"])
def test_an_exceptions_text_forges_no_line(kind: str, written: io.StringIO) -> None:
    configure_logs(LogOptions(kind), written)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logging.getLogger("serve_app").exception("failed")
    first, *others = written.getvalue().splitlines()
    assert all(line.startswith("| ") and line.isprintable() for line in others)
    assert first.isprintable() and bool(others) == (kind == "text")


def test_text_of_any_script_stays_readable(written: io.StringIO) -> None:
    configure_logs(LogOptions(), written)
    logging.getLogger("engine").error("модель 模型 é")
    assert written.getvalue().endswith("Z ERROR engine модель 模型 é\n".removeprefix("Z"))


def test_an_access_log_needs_no_other_line_of_its_level(written: io.StringIO) -> None:
    configure_logs(LogOptions(level="error", has_access_log=True), written)
    logging.getLogger("serve_app.app").warning("hidden")
    logging.getLogger("serve_app.logs.access_log").info("shown")
    assert "shown" in written.getvalue() and "hidden" not in written.getvalue()


def test_fields_are_keys_of_a_json_line_but_do_not_replace_its_own(written: io.StringIO) -> None:
    configure_logs(LogOptions("json"), written)
    logging.getLogger("serve_app").error("m", extra={"fields": {"status": 200, "level": "none"}})
    line = json.loads(written.getvalue())
    assert (line["status"], line["level"]) == (200, "error")
