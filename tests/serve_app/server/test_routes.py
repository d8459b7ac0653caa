import pytest

from configs.schema import ApiConfig, AutoscalingConfig, Config, ModelConfig
from engine.errors import Unavailable
from tests.serve_app.scripted import ScriptedClient, build_app, chat, says, serving, talking_to
from tests.serve_app.toy import toy_model


async def test_models_are_listed_under_all_their_names():
    async with serving(ScriptedClient(says("x"), max_model_len=100)) as http:
        await http.post("/v1/chat/completions", json=chat())
        body = (await http.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [(card["id"], card["root"], card["max_model_len"]) for card in body["data"]] == [
        ("toy", "toy", 100),
        ("org/alias", "toy", 100),
    ]


async def test_the_list_may_be_asked_for_with_a_slash_behind_it():
    async with serving(ScriptedClient()) as http:
        assert (await http.get("/v1/models/")).json() == (await http.get("/v1/models")).json()


async def test_one_model_is_shown_also_if_its_id_has_a_slash():
    async with serving(ScriptedClient()) as http:
        for path in ("/v1/models/org/alias", "/v1/models/org%2Falias"):
            card = (await http.get(path)).json()
            assert (card["id"], card["object"], card["owned_by"]) == ("org/alias", "model", "manta")


async def test_an_alias_reaches_the_model():
    client = ScriptedClient(says("x"))
    async with serving(client) as http:
        body = (await http.post("/v1/chat/completions", json=chat(model="org/alias"))).json()
    assert body["model"] == client.requests[0].model == "toy"


async def test_health_is_what_the_engine_says():
    client = ScriptedClient()
    async with serving(client) as http:
        assert (await http.get("/health")).status_code == 200
        client.healthy = False
        answer = await http.get("/health")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == 503 and answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(("min_replicas", "status"), [(0, 200), (1, 503)])
async def test_a_model_that_scales_to_zero_is_healthy_without_a_replica(min_replicas, status):
    class Resting(ScriptedClient):
        async def status(self, model):
            raise Unavailable("no replica")

    scaling = AutoscalingConfig(min_replicas=min_replicas)
    served = Config(models=(ModelConfig(served_model_name="toy", model="unused", autoscaling=scaling),))
    async with talking_to(build_app(Resting(), served, {"toy": toy_model()})) as http:
        assert [(await http.get(path)).status_code for path in ("/health", "/ping")] == [status, status]


async def test_browsers_from_elsewhere_may_call_only_if_the_config_says_so():
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    async with serving(ScriptedClient()) as http:
        assert "access-control-allow-origin" not in (await http.get("/health", headers=asked)).headers
    async with serving(ScriptedClient(says("x")), ApiConfig(allowed_origins=("https://a.example",))) as http:
        answer = await http.options("/v1/chat/completions", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = await http.post("/v1/chat/completions", json={}, headers=asked)
        assert answer.status_code == 400 and "access-control-allow-origin" in answer.headers


async def test_the_schema_is_true_and_whole():
    async with serving(ScriptedClient()) as http:
        document = (await http.get("/openapi.json")).json()
        assert (await http.get("/docs")).status_code == 200

    def references(value):
        if isinstance(value, dict):
            yield from [value["$ref"]] if "$ref" in value else []
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    for reference in references(document):
        at = document
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]
    post = document["paths"]["/v1/chat/completions"]["post"]
    assert "messages" in post["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"200", "400", "401", "404", "413", "429", "500", "503"} <= set(post["responses"])
    assert "x-definitions" not in post


@pytest.mark.parametrize("template", [None])
async def test_a_base_model_has_no_chat(template):
    async with serving(ScriptedClient(), models={"toy": toy_model(template=template)}) as http:
        answer = await http.post("/v1/chat/completions", json=chat())
    assert answer.status_code == 400 and "no chat template" in answer.json()["error"]["message"]


async def test_head_is_get_without_the_body():
    async with serving(ScriptedClient()) as http:
        for path, status in (
            ("/health", 200),
            ("/v1/models", 200),
            ("/", 200),
            ("/nowhere", 404),
            ("/v1/chat/completions", 405),
        ):
            got, head = await http.get(path), await http.head(path)
            assert head.status_code == got.status_code == status and head.content == b""
            names = ("content-type", "content-length")
            assert [head.headers.get(name) for name in names] == [got.headers.get(name) for name in names]
