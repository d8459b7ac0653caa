"""`manta top` in front of the application on a socket, and of servers that lie or go away."""

import http.server
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console, RenderableType

from scripts.manta.main import main
from scripts.manta.top.command import frames
from scripts.manta.top.frame import frame_of
from scripts.manta.top.sample import sample_of
from tests.scripts.served import on_a_socket
from tests.scripts.top.test_sample import FLEET, STATUS, sample
from tests.serve_app.scripted import ScriptedClient


def shown(frame: RenderableType, width: int = 160) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None, legacy_windows=False).print(frame)
    return out.getvalue()


@contextmanager
def answering(status: Any, port: int = 0) -> Iterator[str]:
    """A server with that body at every path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(status).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_one_frame_of_the_application_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    with on_a_socket(ScriptedClient()) as url:
        main(["top", "--once", "--url", url])
    out = capsys.readouterr().out
    head, columns, row = out.splitlines()[:3]
    assert head.startswith(url.removesuffix("/v1")) and "open requests" in head
    assert columns.split()[:3] == ["model", "replicas", "running"]
    assert row.split()[0] == "toy" and "0%" in row and "\x1b" not in out


def test_replicas_are_shown_with_states_load_and_caches() -> None:
    text = shown(frame_of("http://x", sample(2.0, fleet=[FLEET], num_generated_tokens=1500), sample()))
    model = next(line for line in text.splitlines() if line.startswith("toy "))
    assert "1 running, 1 starting (target 2), 4 requests wait" in model
    assert model.split()[-8:] == ["2", "1", "75%", "25%", "250.0", "0.25", "s", "3"]
    replicas = [line.split() for line in text.splitlines() if line.startswith("r")]
    assert replicas[1:] == [
        ["r1", "running", "2", "1", "75%", "25%", "0.25", "s"],
        ["r2", "starting", "-", "-", "-", "-", "-"],
    ]


def test_names_are_neither_markup_nor_control_characters() -> None:
    name = "[bold red]evil[/bold red]\x1b[2J\n:smile:\u202e[/]" + "x" * 200
    fleet = {**FLEET, "model": name, "replicas": [{"replica_id": name, "state": "[blink]\x07", "engine": None}]}
    text = shown(
        frame_of("http://[b]x", sample_of({"data": [{**STATUS, "model": name}], "fleet": [fleet]}, b"", b"", 0), None)
    )
    assert "[bold red]evil[/bold red]\\x1b[2J\\n:smile:" in text and "[blink]\\x07" in text and "http://[b]x" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text) and "x" * 60 not in text


def test_a_server_that_is_gone_is_said_and_tried_again() -> None:
    with answering({"data": [STATUS], "fleet": []}) as url:
        seen = frames(url, "EMPTY")
        assert "toy" in shown(next(seen))
    gone = shown(next(seen))
    assert "does not answer" in gone and "trying again" in gone and "toy" in gone
    with answering({"data": [{**STATUS, "model": "back"}]}, int(url.rpartition(":")[2])):
        again = shown(next(seen))
    assert "back" in again and "trying again" not in again


def test_once_without_a_server_ends_with_the_reason() -> None:
    with pytest.raises(SystemExit, match=r"manta top: http://127\.0\.0\.1:1/status does not answer: .*refused"):
        main(["top", "--once", "--url", "http://127.0.0.1:1"])


def test_another_server_is_named_as_such() -> None:
    with answering({"hello": "world"}) as url, pytest.raises(SystemExit, match="of another server than Manta's"):
        main(["top", "--once", "--url", url])


@pytest.mark.parametrize("interval", ["0", "soon", "nan", "1e9"])
def test_an_interval_is_between_a_tenth_and_an_hour(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["top", "--interval", interval])
    assert f"argument --interval: must be from 0.1 to 3600 seconds, got '{interval}'" in capsys.readouterr().err
