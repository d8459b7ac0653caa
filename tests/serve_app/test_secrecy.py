"""What is told to clients, and what is written into logs."""

import asyncio
import logging
import re

import pytest

from configs.schema import ApiConfig
from engine.errors import EngineFailed, Overloaded, Unavailable
from serve_app.transport.errors import one_line
from tests.serve_app.scripted import ScriptedClient, chat, says, serving

URL = "/v1/chat/completions"
SECRET = "the-secret-of-a-prompt"
KEY = "sk-the-secret-key"
TELLTALE = re.compile(r"\d+\.\d+\.\d+\.\d+|/(usr|home|root|tmp|opt|work)/|\.py\b|Traceback|0x[0-9a-f]{6}|line \d+, in")

FAILURES = [
    EngineFailed("CUDA error at /usr/lib/libcuda.so: 10.0.0.1:4000, File x.py, line 3, in f"),
    RuntimeError("/root/secret.py at 0x7f00deadbeef"),
    ConnectionError("10.0.0.1:4000 refused"),
    Unavailable("no replica of 'toy' is up"),
    Overloaded("1 requests wait, 1 may"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("has_begun", [False, True])
async def test_no_error_tells_an_address_a_path_or_a_line_of_code(failure, stream, has_begun):
    script = [*(says("ab", finish=None, eos=False) if has_begun else ()), failure]
    async with serving(ScriptedClient(script)) as http:
        answer = await http.post(URL, json=chat(stream=stream))
    assert "error" in answer.text and not TELLTALE.search(answer.text), answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"messages": 1}',
        b'{"messages": [{"role": "user", "content": "x"}], "guided_regex": "(("}',
        b'{"messages": [{"role": "user", "content": "x"}], "guided_json": {"$ref": "file:///etc/passwd"}}',
        b'{"messages": [{"role": "user", "content": "x"}], "guided_grammar": "start: ("}',
        b'{"messages": [{"role": "user", "content": "x"}], "chat_template": "{{ x.y.z }}"}',
        b'{"messages": [{"role": "user", "content": "x"}], "chat_template": "{% include \'/etc/passwd\' %}"}',
    ],
)
async def test_no_refusal_tells_a_path_or_a_line_of_code(body):
    async with serving(ScriptedClient(says("x")), ApiConfig(trust_request_chat_template=True)) as http:
        answer = await http.post(URL, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and not TELLTALE.search(answer.text), answer.text


async def test_nothing_of_a_prompt_an_answer_or_a_key_is_logged(caplog):
    """At any level, whatever happens to the request."""
    caplog.set_level(logging.DEBUG)
    bodies = [
        chat(SECRET),
        chat(SECRET, stream=True),
        chat(SECRET, temperature=9),
        chat(SECRET, model=SECRET),
        chat(SECRET, guided_regex=SECRET + "(("),
        chat(SECRET, tools=[{"type": "function", "function": {"name": SECRET}}]),
        chat(SECRET * 1000),
        {"messages": SECRET},
    ]
    for script in (says(SECRET), [RuntimeError("broke")], [EngineFailed("broke")], [Unavailable("none")]):
        async with serving(ScriptedClient(script), ApiConfig(api_keys=(KEY,))) as http:
            for body in bodies:
                for key in (KEY, KEY + "x"):
                    await http.post(URL, json=body, headers={"authorization": f"Bearer {key}"})
            await http.get(f"/{SECRET}")
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name != "httpx2")  # our own client
    assert "broke" in logged
    assert SECRET not in logged and KEY not in logged


async def test_a_log_has_no_line_of_a_stranger(caplog):
    """Nothing that a client sends or an engine says begins a line of its own."""
    forged = "x\n2026-11-27 ERROR forged\x1b[2J"
    async with serving(ScriptedClient([EngineFailed(forged)])) as http:
        await http.post(URL, json=chat(forged, model="toy", user=forged, request_id=forged))
    assert "an engine failed" in caplog.text
    assert "\n2026-11-27 ERROR forged" not in caplog.text and "\x1b" not in caplog.text
    assert one_line(forged) == r"x\n2026-11-27 ERROR forged\x1b[2J"


async def test_the_server_fetches_nothing_that_a_client_names():
    """Not an image, not a schema, not a file: nobody comes to a port that listens for it."""
    visits = 0

    async def visited(reader, writer):
        nonlocal visits
        visits += 1
        writer.close()

    listening = await asyncio.start_server(visited, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/x"
    part = {"type": "image_url", "image_url": {"url": url}}
    schema = {"$ref": url, "$schema": url, "$id": url}
    bodies = [
        {"messages": [{"role": "user", "content": [part]}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_url": url}}]}]},
        chat(guided_json=schema),
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}]),
        chat(chat_template="{% include '" + url + "' %}"),
        chat(f"![]({url})", documents=[{"title": url, "text": url}]),
        chat(guided_grammar=f'%import "{url}"\nstart: x'),
    ]
    async with listening, serving(ScriptedClient(says("x")), ApiConfig(trust_request_chat_template=True)) as http:
        for body in bodies:
            assert (await http.post(URL, json=body)).status_code in (200, 400)
        await asyncio.sleep(0.2)
    assert visits == 0
