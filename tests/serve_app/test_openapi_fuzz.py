"""Requests that Schemathesis makes of our own OpenAPI document, as it allows them and as it does not.

None is the server's fault, every answer is one that the document names, and every fault has the shape of its API.
"""

from collections.abc import Mapping
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve_app.scripted import ScriptedClient, build_app, config, says, talking_to
from tests.serve_app.toy import toy_model

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def fuzzed_app() -> Any:
    # cut by length: this engine follows no grammar, and only finished answers are checked
    return build_app(ScriptedClient(says("ok", finish="length")), config(), {"toy": toy_model()})


DOCUMENT = schemathesis.openapi.from_dict(fuzzed_app().openapi())
OPERATIONS = {found.ok().label: found.ok() for found in DOCUMENT.get_all_operations()}


def modes_of(label: str) -> list[GenerationMode]:
    """A request that carries nothing cannot be wrong."""
    return [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if OPERATIONS[label].body else [GenerationMode.POSITIVE]


@pytest.fixture(scope="module")
def app() -> Any:
    load_all_checks()
    return fuzzed_app()


def test_every_route_is_in_the_document(app: Any) -> None:
    hidden = {"/docs", "/docs/oauth2-redirect", "/openapi.json", "/"}
    routes = {
        f"{method} {path}"
        for path, operations in app.openapi()["paths"].items()
        for method in map(str.upper, operations)
        if path not in hidden
    }
    assert routes == set(OPERATIONS) and len(routes) > 10


@pytest.mark.parametrize(("label", "mode"), [(label, mode) for label in OPERATIONS for mode in modes_of(label)])
@settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
async def test_an_answer_is_one_that_the_document_names(
    app: Any, label: str, mode: GenerationMode, data: st.DataObject
) -> None:
    case = data.draw(OPERATIONS[label].as_strategy(generation_mode=mode))
    async with talking_to(app) as http:
        answer = await http.send(request_of(http, case.as_transport_kwargs(base_url="http://test")))
    case.validate_response(answer, checks=CHECKS)
    if answer.status_code >= 400 and "/v1/messages" in label:
        error = answer.json()["error"]
        assert set(error) - {"details"} == {"type", "message"} and error["message"] and answer.json()["type"] == "error"
    elif answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == answer.status_code and error["message"]


def request_of(http: httpx2.AsyncClient, asked: Mapping[str, Any]) -> httpx2.Request:
    body = {"json": asked["json"]} if "json" in asked else {"content": asked.get("data", b"")}
    headers = {name.encode(): str(value).encode("latin-1", "replace") for name, value in asked["headers"].items()}
    return http.build_request(asked["method"], asked["url"], headers=headers, params=asked.get("params"), **body)
