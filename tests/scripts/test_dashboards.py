"""Dashboards by Grafana's own models of them, and brought to a server that is as strict as Grafana's API says it is.

No Grafana server has seen them. tests/cluster/test_deploy.py looks whether what they ask for is exported, and asks a
real Prometheus where there is one.
"""

import itertools
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.prometheus import Dataquery

from scripts.dashboards.board import board_json
from scripts.dashboards.panels import BOARDS
from scripts.dashboards.publish import PublishError, connect, publish
from tests.readme import block

Json = dict[str, Any]
TOKEN = "glsa_secret"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_grafanas_models_read_a_dashboard_and_lose_nothing(board: Any) -> None:
    register_default_plugins()
    written = json.loads(json.dumps(board_json(board)))
    model = Dashboard.from_json(written)
    assert all(isinstance(target, Dataquery) for panel in model.panels for target in getattr(panel, "targets", []))
    assert only_new_keys(written, json.loads(JSONEncoder().encode(model)))


def only_new_keys(one: Any, other: Any) -> bool:
    """All that is in one is in the other."""
    if isinstance(one, dict):
        return all(key in other and only_new_keys(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(itertools.starmap(only_new_keys, zip(one, other, strict=True)))
    return bool(one == other)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_panels_lie_beside_each_other_and_are_told_apart(board: Any) -> None:
    panels = board_json(board)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert 0 <= at["x"] and at["x"] + at["w"] <= 24
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    top = {y for _, y in taken}
    assert top == set(range(len(top))), "a gap"


def test_a_legend_names_only_what_its_expression_keeps() -> None:
    for panel in (panel for board in BOARDS for row in board.rows.values() for panel in row):
        assert panel.lines
        for legend, expression in panel.lines.items():
            kept = {name for names in re.findall(r"by \(([\w, ]+)\)", expression) for name in names.split(", ")}
            assert set(re.findall(r"{{(\w+)}}", legend)) <= kept - {"le"}, panel.title
            assert expression.count("(") == expression.count(")")


class Grafana(ThreadingHTTPServer):
    """What of Grafana's HTTP API a publisher needs."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prefix = prefix
        self.url = f"http://127.0.0.1:{self.server_address[1]}{prefix}"
        self.folders: dict[str, str] = {}
        self.boards: dict[str, Json] = {}
        self.refuses: int | None = None

    def answer(self, method: str, path: str, token: str, body: Json | None) -> tuple[int, Json]:
        if self.refuses is not None:
            return self.refuses, {"message": "no"}
        if token != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        match method, path.removeprefix(self.prefix + "/api/").split("/"):
            case "GET", ["folders", uid]:
                return (200, {"uid": uid}) if uid in self.folders else (404, {"message": "folder not found"})
            case "POST", ["folders"]:
                assert body is not None
                if body["uid"] in self.folders:
                    return 409, {"message": "a folder with that uid exists"}
                self.folders[body["uid"]] = body["title"]
                return 200, {"uid": body["uid"]}
            case "POST", ["dashboards", "db"]:
                assert body is not None
                return self._put(body)
        return 404, {"message": "Not found"}

    def _put(self, body: Json) -> tuple[int, Json]:
        board = body["dashboard"]
        if not board.get("title") or board.get("id") is not None or len(board["uid"]) > 40:
            return 400, {"message": "bad dashboard"}
        if body["folderUid"] not in self.folders:
            return 400, {"message": "folder not found"}
        if board["uid"] in self.boards and not body["overwrite"]:
            return 412, {"status": "version-mismatch", "message": "The dashboard has been changed by someone else"}
        self.boards[board["uid"]] = board
        return 200, {"status": "success", "uid": board["uid"], "url": f"/d/{board['uid']}/x", "version": 1}


class _Handler(BaseHTTPRequestHandler):
    server: Grafana

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        status, answer = self.server.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = _serve

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture(params=["", "/monitoring/grafana"])
def server(request: pytest.FixtureRequest) -> Iterator[Grafana]:
    with Grafana(request.param) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_dashboards_get_to_a_server_and_are_replaced_only_on_request(server: Grafana) -> None:
    boards = [board_json(board) for board in BOARDS]
    grafana = connect(server.url + "/", TOKEN)
    assert publish(grafana, boards, "Chat models", overwrite=False) == [f"/d/{board['uid']}/x" for board in boards]
    assert server.folders == {"manta": "Chat models"}
    assert list(server.boards.values()) == boards
    server.boards["manta-models"] = {"edited": True}
    with pytest.raises(PublishError, match="--overwrite"):
        publish(grafana, boards, "Chat models", overwrite=False)
    assert server.boards["manta-models"] == {"edited": True}
    publish(grafana, boards, "Chat models", overwrite=True)
    assert server.boards["manta-models"] == boards[0]


@pytest.mark.parametrize(
    ("status", "says"), [(401, "does not know this token"), (403, "role Editor"), (500, "refuses"), (404, "refuses")]
)
def test_what_the_server_refuses_is_said(server: Grafana, status: int, says: str) -> None:
    server.refuses = status
    with pytest.raises(PublishError, match=says):
        publish(connect(server.url, TOKEN), [board_json(BOARDS[0])], "Manta", overwrite=False)


def test_a_server_that_is_none_and_a_url_that_is_none_are_said(server: Grafana) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(PublishError, match="does not answer"):
        publish(connect(server.url, TOKEN), [board_json(BOARDS[0])], "Manta", overwrite=False)
    for url in ("grafana.example.org", "ftp://x", "http://"):
        with pytest.raises(PublishError, match="--url"):
            connect(url, TOKEN)


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.dashboards", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "", **env}, cwd=Path.cwd())


def test_the_readmes_commands_write_files_and_publish(server: Grafana, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    told = {"https://grafana.example.org": server.url, "FILE": str(token), "DIR": str(tmp_path / "boards")}
    for line in block("python -m scripts.dashboards").splitlines():
        python, _, module, *arguments = shlex.split(line, comments=True)
        assert (python, module) == ("python", "scripts.dashboards")
        done = run(*(told.get(one, one) for one in arguments))
        assert done.returncode == 0, done.stderr
        if "--url" in arguments:
            assert f"{server.url}/d/manta-models/x" in done.stdout
    files = sorted((tmp_path / "boards").iterdir())
    assert [json.loads(path.read_text()) for path in files] == [server.boards[path.stem] for path in files]
    assert run("--url", server.url).returncode == 2
    wrong = run("--url", server.url, GRAFANA_TOKEN="other")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: Grafana does not know this token")
