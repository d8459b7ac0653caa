"""Ids behind Ray Serve, which names every request and writes the answer's header."""

import uuid

import pytest
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.serve_app.scripted import ScriptedClient, build_app, chat, config, says, talking_to
from tests.serve_app.toy import toy_model

URL = "/v1/chat/completions"


def under_serve(app: ASGIApp) -> ASGIApp:
    """What Serve does around an application."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(scope=scope)
        if "x-request-id" not in headers:
            headers.append("X-Request-ID", str(uuid.uuid4()))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("X-Request-ID", headers["x-request-id"])
            await send(message)

        await app(scope, receive, send_with_id)

    return call


@pytest.fixture
def app():
    return under_serve(build_app(ScriptedClient(says("x")), config(), {"toy": toy_model()}, behind_serve=True))


@pytest.mark.parametrize("headers", [{}, {"x-request-id": "mine"}])
async def test_the_answer_has_one_header_which_is_its_id(app, headers):
    async with talking_to(app) as http:
        answer = await http.post(URL, json=chat(), headers=headers)
    (told,) = answer.headers.get_list("x-request-id")
    assert told and answer.json()["id"] == f"chatcmpl-{told}"
    assert headers.get("x-request-id", told) == told


async def test_a_body_names_the_request_where_the_client_sent_no_header(app):
    async with talking_to(app) as http:
        answer = await http.post(URL, json=chat(request_id="mine"))
        assert answer.json()["id"] == "chatcmpl-mine"
        answer = await http.post(URL, json=chat(request_id="mine"), headers={"x-request-id": "theirs"})
        assert answer.json()["id"] == "chatcmpl-theirs"
