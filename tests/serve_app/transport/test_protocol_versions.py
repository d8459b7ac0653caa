"""Over a real server and a socket: what goes over the line is what counts."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import uvicorn

from tests.serve_app.scripted import ScriptedClient, build_app, chat, config, says
from tests.serve_app.toy import toy_model


@asynccontextmanager
async def listening(client):
    app = build_app(client, config(), {"toy": toy_model()})
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def exchange(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.lower(), body


def post(version, body, headers="Host: x\r\n"):
    data = json.dumps(body).encode()
    length = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n"
    return f"POST /v1/chat/completions HTTP/{version}\r\n{headers}{length}\r\n".encode() + data


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_of_http_1_0_gets_no_chunks(stream):
    async with listening(ScriptedClient(says("hello", sizes=(2,)))) as port:
        head, body = await exchange(port, post("1.0", chat(stream=stream), headers=""))
    assert b" 200 " in head.split(b"\r\n")[0]
    assert b"transfer-encoding" not in head and b"content-length: %d\r" % len(body) in head + b"\r"
    assert body.startswith(b"data: ") == stream and (body.rstrip().endswith(b"data: [DONE]") or not stream)


async def test_a_client_of_http_1_1_gets_a_stream_as_it_comes():
    async with listening(ScriptedClient(says("hello"))) as port:
        head, _ = await exchange(port, post("1.1", chat(stream=True)))
    assert b"transfer-encoding: chunked" in head


async def test_a_request_without_a_host_is_refused():
    async with listening(ScriptedClient(says("hello"))) as port:
        head, body = await exchange(port, post("1.1", chat(), headers=""))
    assert b" 400 " in head.split(b"\r\n")[0] and json.loads(body)["error"]["param"] == "Host"


@pytest.mark.parametrize("headers", ["X-A: " + "a" * 100_000 + "\r\n", "X-A: a\r\n" * 300])
async def test_a_head_that_is_too_large_is_refused_in_json(headers):
    async with listening(ScriptedClient(says("hello"))) as port:
        head, body = await exchange(port, post("1.1", chat(), headers="Host: x\r\n" + headers))
    assert b" 431 " in head.split(b"\r\n")[0] and "are read" in json.loads(body)["error"]["message"]
