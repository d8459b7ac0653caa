"""The page for people."""

import asyncio
import re
import shutil
import socket
from pathlib import Path

import pytest
import uvicorn

from tests.serve_app.scripted import ScriptedClient, build_app, config, says, serving
from tests.serve_app.toy import toy_model

PAGE = Path(__file__).parents[3] / "serve_app" / "server" / "page.html"
# what the page has in a browser, and one answer of its
BROWSER = """
const $ = () => ({}), headers = () => ({ "Content-Type": "application/json" }), real = fetch;
fetch = (path, options) => real(`${process.argv[1]}/${path}`, options);
(async () => {
  const asked = { messages: [{ role: "user", content: "hi" }], stream: true };
  for await (const found of events(asked, new AbortController().signal))
    for (const event of found) process.stdout.write(event.choices[0]?.delta?.content ?? "");
})();
"""


async def test_the_page_is_whole_and_takes_nothing_from_elsewhere():
    async with serving(ScriptedClient()) as http:
        answer = await http.get("/")
        paths = set((await http.get("/openapi.json")).json()["paths"])
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)=|https?://", answer.text)
    called = set(re.findall(r'fetch\("(v1/[\w/]+)"', answer.text))
    assert called == {"v1/models", "v1/chat/completions", "v1/streams/"}
    assert {f"/{path}" for path in called - {"v1/streams/"}} | {"/v1/streams/{stream_id}"} <= paths


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
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

    script = PAGE.read_text().partition("<script>")[2]
    resuming = script[script.index("class Refused") : script.index("async function answer()")]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(cutting, log_level="critical", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        node = await asyncio.create_subprocess_exec(
            "node", "-e", resuming + BROWSER, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        said, failed = await node.communicate()
        server.should_exit = True
        await running
    assert said.decode() == text, failed.decode()
    assert num_lines > 2 and len(client.requests) == 1
