"""OPTIONS, with and without a browser behind it."""

import pytest

from configs.schema import ApiConfig
from tests.serve_app.scripted import ScriptedClient, serving

PREFLIGHT = {"origin": "https://a.example", "access-control-request-method": "POST"}


@pytest.mark.parametrize("headers", [{}, PREFLIGHT])
@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/chat/completions", "POST, OPTIONS"),
        ("/v1/responses", "POST, OPTIONS"),
        ("/v1/responses/resp_1", "GET, HEAD, DELETE, OPTIONS"),
        ("/v1/messages/count_tokens", "POST, OPTIONS"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/org/name", "GET, HEAD, OPTIONS"),
        ("/health", "GET, HEAD, OPTIONS"),
        ("/ping", "GET, HEAD, POST, OPTIONS"),
    ],
)
async def test_every_route_tells_its_methods_also_without_a_key(path, allow, headers):
    async with serving(ScriptedClient(), ApiConfig(api_keys=("s3cret",))) as http:
        answer = await http.options(path, headers=headers)
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allow, b"")
    assert "access-control-allow-origin" not in answer.headers


async def test_an_unknown_route_stays_unknown():
    async with serving(ScriptedClient()) as http:
        assert (await http.options("/nothing", headers=PREFLIGHT)).status_code == 404


async def test_a_preflight_of_an_allowed_origin_is_answered_for_it():
    async with serving(ScriptedClient(), ApiConfig(allowed_origins=("https://a.example",))) as http:
        answer = await http.options("/v1/responses", headers=PREFLIGHT)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://a.example"
