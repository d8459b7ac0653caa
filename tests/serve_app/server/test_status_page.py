"""The status page: what it is made of, who gets it, and what it says in a real browser where there is one."""

import asyncio
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from cluster.control_plane import Deployed
from cluster.fleet import Fleet
from configs.schema import AccessConfig, ApiConfig
from tests.browser import chromium
from tests.cluster.local import local_cluster
from tests.engine.toy import request
from tests.readme import ROOT
from tests.serve_app.scripted import ScriptedClient, build_app, config, serving
from tests.serve_app.server.test_page import POLICY, TYPES, needs_node, node
from tests.serve_app.toy import toy_model

FOLDER = ROOT / "serve_app" / "server" / "status_page"
FILES = sorted(FOLDER.iterdir())
MAX_BYTES = 30 * 1024
BROWSER_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


def test_the_page_is_small():
    assert sum(path.stat().st_size for path in FILES) <= MAX_BYTES


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/html;q=0.9", "application/json"),
        ("text/html;q=0, */*", "application/json"),
        ("text/html;q=x", "application/json"),
        (BROWSER_ACCEPT, "text/html; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
    ],
)
async def test_browsers_get_the_page_and_all_others_json(accept, kind):
    async with serving(ScriptedClient()) as http:
        answer = await http.get("/status", headers={"Accept": accept} if accept else {})
    assert answer.headers["content-type"] == kind
    assert "Accept" in re.split(", *", answer.headers["vary"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
async def test_each_file_has_its_type_and_a_strict_policy(path: Path):
    async with serving(ScriptedClient()) as http:
        answers = [await http.get(f"/status_page/{path.name}")]
        if path.name == "index.html":
            answers.append(await http.get("/status", headers={"Accept": BROWSER_ACCEPT}))
    for answer in answers:
        assert answer.status_code == 200 and answer.content == path.read_bytes()
        assert answer.headers["content-type"] == f"{TYPES[path.suffix]}; charset=utf-8"
        assert dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")) == POLICY


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_has_what_the_policy_forbids(path: Path):
    text = path.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|srcdoc", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    if path.suffix == ".html":
        assert not re.search(r"<style|\son\w+=|\sstyle=", text)
    if path.suffix == ".mjs":
        assert {FOLDER / name for name in re.findall(r'^import .* from "(.*)";$', text, re.M)} <= set(FILES)


def test_every_element_that_the_page_looks_for_is_there():
    ids = set(re.findall(r'\sid="([\w-]+)"', (FOLDER / "index.html").read_text()))
    assert set(re.findall(r'\$\("([\w-]+)"\)', (FOLDER / "main.mjs").read_text())) <= ids


async def test_without_a_key_the_page_can_be_read_but_no_status():
    api = ApiConfig(api_keys=("a",), access=AccessConfig(status="key"))
    async with serving(ScriptedClient(), api) as http:
        assert (await http.get("/status", headers={"Accept": BROWSER_ACCEPT})).status_code == 200
        assert (await http.get("/status_page/main.mjs")).status_code == 200
        assert (await http.get("/status")).status_code == 401
        assert (await http.get("/status", headers={"Authorization": "Bearer a"})).status_code == 200


async def test_a_page_that_is_off_has_no_files_either():
    async with serving(ScriptedClient(), ApiConfig(access=AccessConfig(status="off"))) as http:
        for path in ("/status", "/status_page/main.mjs", "/status_page/index.html"):
            assert (await http.get(path, headers={"Accept": BROWSER_ACCEPT})).status_code == 404


async def test_the_api_document_describes_what_is_sent():
    async with served() as (_, url), browserless(url) as get:
        document, found = await get("/openapi.json"), await get("/status")
    shapes = document["components"]["schemas"]

    def check(name: str, value: Any) -> None:
        assert set(value) == set(shapes[name]["properties"]), name

    check("StatusList", found)
    check("ModelStatus", found["data"][0])
    check("ModelFleet", found["fleet"][0])
    check("Replica", found["fleet"][0]["replicas"][0])
    assert {one["state"] for one in found["fleet"][0]["replicas"]} == {"running", "starting"}
    assert sum(sum(one["routed"].values()) for one in found["fleet"][0]["replicas"]) == 3


@needs_node
async def test_its_modules_do_what_their_own_tests_say():
    """tests/serve_app/server/status_page, under node's runner of tests."""
    tests = sorted(map(str, Path(__file__).with_name("status_page").glob("test_*.mjs")))
    assert len(tests) >= 3
    status, said, failed = await node("--test", *tests)
    assert status == 0, said + failed


@needs_chromium
async def test_a_browser_shows_the_replicas_and_says_when_the_server_is_gone(tmp_path: Path):
    async with chromium(tmp_path) as browser:
        async with served() as (port, url):
            await browser.open(f"{url}/status")
            await browser.until("document.querySelectorAll('svg[role=img]').length >= 4")
            await browser.until("document.getElementById('state').textContent === 'Live'")
            text = await browser.evaluate("document.body.innerText")
            assert "replica-0" in text and "2 running, 1 starting" in text
        await browser.until("document.getElementById('state').textContent.startsWith('The server does not answer')")
        async with served(port):
            await browser.until("document.getElementById('state').textContent === 'Live'")
        assert browser.faults == []


@needs_chromium
async def test_in_a_browser_a_key_opens_the_status_and_stays_in_the_tab(tmp_path: Path):
    api = ApiConfig(api_keys=("a key",), access=AccessConfig(status="key"))
    async with chromium(tmp_path) as browser, served(api=api) as (_, url):
        await browser.open(f"{url}/status")
        await browser.until("!document.getElementById('key').hidden")
        await browser.evaluate("document.getElementById('key').focus()")
        await browser.type("a key\t")
        await browser.until("document.getElementById('state').textContent === 'Live'")
        assert await browser.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]


@asynccontextmanager
async def served(port: int = 0, api: ApiConfig | None = None) -> AsyncIterator[tuple[int, str]]:
    """A server in front of a cluster of two toy engines, a third one starting, that has answered three requests."""

    async def deployed(model: str) -> Deployed:
        return Deployed({"replica-0": "RUNNING", "replica-1": "RUNNING", "third": "STARTING"}, 3)

    async with local_cluster(2) as cluster:
        for number in range(3):
            asked = request(f"r{number}", [1] * 40, max_tokens=5)
            async for _ in cluster.client.generate(asked):
                pass
        settings = config(api)
        fleet = Fleet(cluster.client, settings, deployed).status
        app = build_app(cluster.client, settings, {"toy": toy_model()}, fleet=fleet)
        with socket.create_server(("127.0.0.1", port)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
            running = asyncio.create_task(server.serve(sockets=[listener]))
            found = listener.getsockname()[1]
            yield found, f"http://127.0.0.1:{found}"
            server.should_exit = server.force_exit = True
            await running


@asynccontextmanager
async def browserless(url: str) -> AsyncIterator[Any]:
    import httpx2

    async with httpx2.AsyncClient(base_url=url) as http:

        async def get(path: str) -> Any:
            return json.loads((await http.get(path)).content)

        yield get
