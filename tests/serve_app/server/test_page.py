"""The page for people."""

import asyncio
import re
import shutil
import socket
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import uvicorn

from configs.schema import AccessConfig, ApiConfig
from tests.readme import ROOT
from tests.serve_app.scripted import ScriptedClient, build_app, config, says, serving
from tests.serve_app.toy import toy_model

FOLDER = ROOT / "serve_app" / "server" / "chat_page"
FILES = sorted(FOLDER.iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".mjs": "text/javascript"}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "data: blob: 'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
MAX_BYTES = 70 * 1024  # 10 of them for tokens and their heat map
# what the page has in a browser, and one answer of its; node takes it as an ES module
BROWSER = """
const { answerEvents } = await import(process.argv[1]);
const [real, asks] = [fetch, { headers: () => ({ "Content-Type": "application/json" }), notice() {} }];
globalThis.fetch = (path, options) => real(`${process.argv[2]}/${path}`, options);
const asked = { messages: [{ role: "user", content: "hi" }], stream: true };
const stopping = new AbortController();
let said = "";
try {
  for await (const found of answerEvents(asked, stopping.signal, asks)) {
    for (const event of found) said += event.choices[0]?.delta?.content ?? "";
    if (said.length > Number(process.argv[3] ?? Infinity)) stopping.abort();
  }
} catch (error) {
  if (!stopping.signal.aborted) said = `${error.constructor.name}: ${error.message}`;
}
process.stdout.write(said);
"""
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


def test_the_page_is_small():
    assert sum(path.stat().st_size for path in FILES) <= MAX_BYTES


def test_all_its_files_get_into_the_wheel():
    with open(ROOT / "pyproject.toml", "rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["*"]
    assert [path.name for path in FILES if not any(fnmatch(path.name, pattern) for pattern in patterns)] == []


async def test_the_page_is_whole_and_takes_nothing_from_elsewhere():
    async with serving(ScriptedClient()) as http:
        page = await http.get("/")
        paths = set((await http.get("/openapi.json")).json()["paths"])
        for name in re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page.text):
            assert (await http.get(f"/{name}")).status_code == 200, name
    assert page.status_code == 200
    assert page.text == (FOLDER / "index.html").read_text()
    modules = "".join(path.read_text() for path in FILES if path.suffix == ".mjs")
    called = set(re.findall(r'fetch\("(v1/[\w/]+)"', modules))
    assert called == {"v1/models", "v1/chat/completions", "v1/streams/"}
    assert {f"/{path}" for path in called - {"v1/streams/"}} | {"/v1/streams/{stream_id}"} <= paths


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
async def test_each_file_has_its_type_and_a_strict_policy(path: Path):
    async with serving(ScriptedClient()) as http:
        answers = [await http.get(f"/chat_page/{path.name}")]
        if path.name == "index.html":
            answers.append(await http.get("/"))
    for answer in answers:
        assert answer.status_code == 200 and answer.content == path.read_bytes()
        assert answer.headers["content-type"] == f"{TYPES[path.suffix]}; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"].split("; ")
        assert dict(rule.split(" ", 1) for rule in policy) == POLICY


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_has_what_the_policy_forbids(path: Path):
    text = path.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|srcdoc", text)
    if path.suffix == ".html":
        assert not re.search(r"<style|\son\w+=|\sstyle=|https?://", text)
        assert re.findall(r"<script[^>]*>(.*?)</script>", text) == [""]
    if path.suffix == ".mjs":
        imported = re.findall(r'^import .* from "(.*)";$', text, re.M)
        assert len(imported) == len(re.findall(r"^import\b", text, re.M))
        assert {FOLDER / name for name in imported} <= set(FILES)


def test_every_element_that_the_page_looks_for_is_there():
    ids = set(re.findall(r'\sid="([\w-]+)"', (FOLDER / "index.html").read_text()))
    assert set(re.findall(r'\$\("([\w-]+)"\)', (FOLDER / "main.mjs").read_text())) <= ids


@pytest.mark.parametrize("name", ["nothing.mjs", "..%2fpage_routes.py", "%2e%2e/page_routes.py", "__init__.py", "a%00"])
async def test_there_are_no_other_files(name: str):
    async with serving(ScriptedClient()) as http:
        assert (await http.get(f"/chat_page/{name}")).status_code == 404


@pytest.mark.parametrize(("access", "stranger", "known"), [("open", 200, 200), ("key", 401, 200), ("off", 404, 404)])
async def test_its_files_have_the_switch_of_the_page(access, stranger, known):
    api = ApiConfig(api_keys=("a",), access=AccessConfig(chat_page=access))
    async with serving(ScriptedClient(), api) as http:
        for path in ("/", "/chat_page/index.html", "/chat_page/main.mjs", "/chat_page/style.css"):
            assert (await http.get(path)).status_code == stranger
            assert (await http.get(path, headers={"Authorization": "Bearer a"})).status_code == known


@needs_node
async def test_its_modules_do_what_their_own_tests_say():
    """tests/serve_app/server/chat_page, under node's runner of tests."""
    tests = sorted(map(str, Path(__file__).with_name("chat_page").glob("test_*.mjs")))
    assert len(tests) >= 4
    status, said, failed = await node("--test", *tests)
    assert status == 0, said + failed


@needs_node
async def test_the_page_resumes_an_answer_after_lost_lines():
    text = "abcdefghijklmnopqrstuvwxyz" * 4
    client = ScriptedClient([item for piece in says(text) for item in (piece, 0.02)])
    app, num_lines = build_app(client, config(), {"toy": toy_model()}), 0

    async def cutting(scope, receive, send):
        """The first lines are lost after some events."""
        nonlocal num_lines
        num_lines += 1
        number, num_sent = num_lines, 0

        async def send_some(message):
            nonlocal num_sent
            num_sent += 1
            if number < 4 and num_sent > 20:
                raise ConnectionError
            await send(message)

        try:
            await app(scope, receive, send_some)
        except ConnectionError:  # the server closes the line
            pass

    said, failed = await answer_of(cutting)
    assert said == text, failed
    assert num_lines > 2 and len(client.requests) == 1


@needs_node
async def test_what_the_page_stops_is_stopped_at_the_server():
    client = ScriptedClient([item for piece in says("abc" * 400) for item in (piece, 0.02)], max_model_len=4096)
    said, failed = await answer_of(build_app(client, config(), {"toy": toy_model()}), "5", until=client.closed)
    assert said and len(said) < 100, failed
    assert client.num_closed == 1


@needs_node
async def test_the_page_says_what_the_server_says():
    client = ScriptedClient()
    api = ApiConfig(api_keys=("a",))
    said, failed = await answer_of(build_app(client, config(api), {"toy": toy_model()}))
    assert said == "Refused: no valid API key: send Authorization: Bearer KEY", failed


async def answer_of(app, *arguments: str, until: asyncio.Event | None = None) -> tuple[str, str]:
    """What the page makes of an answer of `app`, and what node complains of. Serves on until the event comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        script = ("--input-type=module", "-e", BROWSER, (FOLDER / "stream.mjs").as_uri())
        _, said, failed = await node(*script, url, *arguments)
        if until is not None:
            await asyncio.wait_for(until.wait(), 10)
        server.should_exit = True
        await running
    return said, failed


async def node(*arguments: str) -> tuple[int | None, str, str]:
    running = await asyncio.create_subprocess_exec(
        "node", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, failed = await running.communicate()
    return running.returncode, said.decode(), failed.decode()
