"""Responses that are kept: continued, shown, listed, deleted, generated in the background; conversations."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import openai
import pytest

from configs.schema import ApiConfig
from engine.errors import EngineFailed, Overloaded
from tests.serve_app.chat.test_tools import CALL, HERMES
from tests.serve_app.responses.event_order import checked_response, typed_events
from tests.serve_app.responses.test_responses import WEATHER
from tests.serve_app.scripted import ScriptedClient, build_app, config, says, serving, talking_to
from tests.serve_app.state.redis_server import needs_redis, redis_server
from tests.serve_app.test_openai_sdk import sdk
from tests.serve_app.toy import toy_model

URL = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
KEYS = ApiConfig(api_keys=("alices", "bobs"))
SLOW = [*says("ab", finish=None), 0.3, *says("c")]


def prompt_of(client, index=-1):
    return toy_model().tokenizer.decode(list(client.requests[index].prompt), skip_special_tokens=False)


def as_(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_continued(stream):
    client = ScriptedClient(says("I am Manta."))
    async with serving(client) as http:
        answer = await http.post(URL, json={"input": "who?", "instructions": "Be kind.", "stream": stream})
        first = checked_response(typed_events(answer.text)) if stream else answer.json()
        fields = {"input": "sure?", "previous_response_id": first["id"], "instructions": "Be brief."}
        second = (await http.post(URL, json=fields)).json()
        third = await http.post(URL, json={"input": "really?", "previous_response_id": second["id"]})
    assert third.status_code == 200 and second["previous_response_id"] == first["id"]
    # instructions are not carried over
    assert prompt_of(client, 1).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nwho?<|im_end|>")
    assert prompt_of(client, 2) == (
        "<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\nI am Manta.<|im_end|>\n"
        "<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\nI am Manta.<|im_end|>\n"
        "<|im_start|>user\nreally?<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_a_call_is_continued_by_its_output_alone():
    client = ScriptedClient(says(CALL), max_model_len=4096)
    async with serving(client, models={"toy": toy_model(template=HERMES, max_model_len=4096)}) as http:
        first = (await http.post(URL, json={"input": "weather?", "tools": [WEATHER]})).json()
        output = {"type": "function_call_output", "call_id": first["output"][0]["call_id"], "output": "rain"}
        fields = {"input": [output], "previous_response_id": first["id"], "tools": [WEATHER]}
        assert (await http.post(URL, json=fields)).status_code == 200
    assert "<tool_call>Paris, 巴黎</tool_call>" in prompt_of(client) and "rain" in prompt_of(client)


async def test_items_of_a_kept_response_are_named_by_their_ids():
    client = ScriptedClient(says(f"I look. {CALL}"), max_model_len=4096)
    async with serving(client, KEYS, {"toy": toy_model(template=HERMES, max_model_len=4096)}) as http:
        body = {"input": "weather?", "tools": [WEATHER]}
        first = (await http.post(URL, json=body, headers=as_("alices"))).json()
        items = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
        output = {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "rain"}
        body |= {"input": [{"role": "user", "content": "weather?"}, *items, output]}
        assert (await http.post(URL, json=body, headers=as_("bobs"))).json()["error"]["param"] == "input.1.id"
        second = (await http.post(URL, json=body, headers=as_("alices"))).json()
        assert "I look. <tool_call>Paris, 巴黎</tool_call>" in prompt_of(client)
        at = f"{URL}/{second['id']}/input_items"
        listed = (await http.get(at, params={"order": "asc"}, headers=as_("alices"))).json()["data"]
        assert [item["type"] for item in listed] == ["message", "message", "function_call", "function_call_output"]


async def test_a_kept_response_is_shown_listed_and_deleted():
    async with serving(ScriptedClient(says("x"))) as http:
        items = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
        made = (await http.post(URL, json={"input": items})).json()
        at = f"{URL}/{made['id']}"
        assert (await http.get(at)).json() == made
        listed = (await http.get(f"{at}/input_items", params={"order": "asc", "limit": 1})).json()
        assert [item["content"] for item in listed["data"]] == ["a"] and listed["has_more"]
        rest = (await http.get(f"{at}/input_items", params={"order": "asc", "after": listed["last_id"]})).json()
        assert [item["content"] for item in rest["data"]] == ["b"] and not rest["has_more"]
        assert (await http.get(f"{at}/input_items", params={"limit": "0"})).status_code == 400
        assert (await http.delete(at)).json() == {"id": made["id"], "object": "response", "deleted": True}
        for gone in (await http.get(at), await http.delete(at), await http.get(f"{at}/input_items")):
            assert gone.status_code == 404 and gone.json()["error"]["type"] == "NotFoundError"
        answer = await http.post(URL, json={"input": "y", "previous_response_id": made["id"]})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "previous_response_id"


async def test_what_is_not_to_be_stored_is_not():
    async with serving(ScriptedClient(says("x"))) as http:
        made = (await http.post(URL, json={"input": "a", "store": False})).json()
        assert (await http.get(f"{URL}/{made['id']}")).status_code == 404


async def test_an_answer_that_fails_is_not_kept():
    async with serving(ScriptedClient([*says("a", finish=None), EngineFailed("broke")])) as http:
        seen = typed_events((await http.post(URL, json={"input": "a", "stream": True})).text)
        assert (await http.get(f"{URL}/{seen[0]['response']['id']}")).status_code == 404


async def test_no_key_sees_what_another_one_has():
    async with serving(ScriptedClient(says("x")), KEYS) as http:
        made = (await http.post(URL, json={"input": "a"}, headers=as_("alices"))).json()
        begun = (await http.post(CONVERSATIONS, json={}, headers=as_("alices"))).json()
        assert (await http.get(f"{URL}/{made['id']}", headers=as_("bobs"))).status_code == 404
        assert (await http.delete(f"{URL}/{made['id']}", headers=as_("bobs"))).status_code == 404
        assert (await http.get(f"{CONVERSATIONS}/{begun['id']}", headers=as_("bobs"))).status_code == 404
        for fields, status in (({"previous_response_id": made["id"]}, 400), ({"conversation": begun["id"]}, 404)):
            answer = await http.post(URL, json={"input": "b", **fields}, headers=as_("bobs"))
            assert answer.status_code == status
        assert (await http.get(f"{URL}/{made['id']}", headers=as_("alices"))).json() == made
        assert (await http.get(f"{URL}/{made['id']}")).status_code == 401


async def test_two_requests_of_one_id_are_two_responses():
    async with serving(ScriptedClient(says("x"))) as http:
        made = [(await http.post(URL, json={"input": t}, headers={"x-request-id": "same"})).json() for t in "ab"]
        assert made[0]["id"] != made[1]["id"]


async def test_a_conversation_is_continued():
    client = ScriptedClient(says("yes"))
    async with serving(client) as http:
        item = {"type": "message", "role": "system", "content": "Be kind."}
        begun = (await http.post(CONVERSATIONS, json={"items": [item], "metadata": {"a": "b"}})).json()
        at = f"{CONVERSATIONS}/{begun['id']}"
        for text, reference in (("one?", begun["id"]), ("two?", {"id": begun["id"]})):
            made = (await http.post(URL, json={"input": text, "conversation": reference})).json()
            assert made["conversation"] == {"id": begun["id"]}
        turns = [("system", "Be kind."), ("user", "one?"), ("assistant", "yes"), ("user", "two?")]
        assert prompt_of(client).startswith("".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns))
        items = (await http.get(f"{at}/items", params={"order": "asc"})).json()["data"]
        assert [one["role"] for one in items] == ["system", "user", "assistant", "user", "assistant"]
        one = (await http.get(f"{at}/items/{items[0]['id']}")).json()
        assert one == items[0]
        assert (await http.delete(f"{at}/items/{one['id']}")).json() == begun
        assert (await http.get(f"{at}/items/{one['id']}")).status_code == 404
        added = await http.post(f"{at}/items", json={"items": [{"role": "user", "content": "three?"}]})
        assert added.json()["data"][0]["content"] == "three?"
        assert (await http.post(at, json={"metadata": {"c": "d"}})).json()["metadata"] == {"c": "d"}
        assert (await http.get(at)).json()["metadata"] == {"c": "d"}
        assert (await http.delete(at)).json()["deleted"] and (await http.get(at)).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_a_background_response_goes_on_without_its_client(stream):
    async with serving(ScriptedClient(SLOW)) as http:
        answer = await http.post(URL, json={"input": "a", "background": True, "stream": stream})
        if stream:
            made = checked_response(typed_events(answer.text))
        else:
            made = answer.json()
            assert made["status"] == "queued" and made["output"] == []
        async with asyncio.timeout(30):
            while (found := (await http.get(f"{URL}/{made['id']}")).json())["status"] in ("queued", "in_progress"):
                await asyncio.sleep(0.02)
        assert found["status"] == "completed" and found["output"][0]["content"][0]["text"] == "abc"
        second = await http.post(URL, json={"input": "b", "previous_response_id": made["id"]})
        assert second.status_code == 200


async def test_a_background_stream_is_taken_up_at_any_event():
    async with serving(ScriptedClient(SLOW)) as http:
        body = {"input": "a", "background": True, "stream": True}
        seen = typed_events((await http.post(URL, json=body)).text)
        at = f"{URL}/{seen[0]['response']['id']}"
        assert typed_events((await http.get(at, params={"stream": "true"})).text) == seen
        for number in (0, 5, len(seen) - 2):
            rest = await http.get(at, params={"stream": "true", "starting_after": number})
            assert typed_events(rest.text) == seen[number + 1 :]
        assert (await http.get(at, params={"stream": "true", "starting_after": "x"})).status_code == 400


async def test_a_running_background_stream_is_read_by_several():
    async with serving(ScriptedClient(SLOW)) as http:
        body = {"input": "a", "background": True}
        made = (await http.post(URL, json=body)).json()
        params = {"stream": "true"}
        answers = await asyncio.gather(*(http.get(f"{URL}/{made['id']}", params=params) for _ in range(3)))
    texts = {answer.text for answer in answers}
    assert len(texts) == 1 and checked_response(typed_events(texts.pop()))["status"] == "completed"


async def test_a_background_response_is_cancelled():
    client = ScriptedClient([*says("ab", finish=None), 60.0])
    async with serving(client) as http:
        made = (await http.post(URL, json={"input": "a", "background": True})).json()
        await asyncio.sleep(0.1)
        cancelled = (await http.post(f"{URL}/{made['id']}/cancel")).json()
        assert cancelled["status"] == "cancelled" and client.num_closed == 1
        assert (await http.get(f"{URL}/{made['id']}")).json()["status"] == "cancelled"
        answer = await http.post(URL, json={"input": "b", "previous_response_id": made["id"]})
        assert answer.status_code == 400


async def test_only_background_responses_are_cancelled_or_streamed_again():
    async with serving(ScriptedClient(says("x"))) as http:
        made = (await http.post(URL, json={"input": "a"})).json()
        assert (await http.post(f"{URL}/{made['id']}/cancel")).status_code == 400
        assert (await http.get(f"{URL}/{made['id']}", params={"stream": "true"})).status_code == 400


@pytest.mark.parametrize(
    ("error", "code"), [(Overloaded("full"), "rate_limit_exceeded"), (EngineFailed("broke"), "server_error")]
)
async def test_a_background_response_that_fails_says_why(error, code):
    async with serving(ScriptedClient([error])) as http:
        made = (await http.post(URL, json={"input": "a", "background": True})).json()
        async with asyncio.timeout(30):
            while (found := (await http.get(f"{URL}/{made['id']}")).json())["status"] != "failed":
                await asyncio.sleep(0.02)
    assert found["error"]["code"] == code


async def test_nothing_is_kept_where_the_operator_says_so():
    async with serving(ScriptedClient(says("x")), ApiConfig(state_bytes=0)) as http:
        made = (await http.post(URL, json={"input": "a"})).json()
        assert made["status"] == "completed" and (await http.get(f"{URL}/{made['id']}")).status_code == 404


async def test_the_sdk_continues_retrieves_and_deletes():
    client = ScriptedClient(SLOW)
    async with sdk(client) as public:
        made = await public.responses.create(model="toy", input="a", background=True)
        while made.status in ("queued", "in_progress"):
            made = await public.responses.retrieve(made.id)
            await asyncio.sleep(0.02)
        assert made.output_text == "abc"
        async with public.responses.stream(model="toy", input="b", background=True) as stream:
            seen = [event async for event in stream]
        async with public.responses.stream(response_id=seen[0].response.id, starting_after=4) as stream:
            rest = [event async for event in stream]
        assert [one.sequence_number for one in rest] == [one.sequence_number for one in seen][5:]
        items = [item async for item in public.responses.input_items.list(made.id)]
        assert items[0].content == "a" and items[0].id
        counted = await public.responses.input_tokens.count(model="toy", input="a")
        assert counted.input_tokens == made.usage.input_tokens
        await public.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await public.responses.retrieve(made.id)
        begun = await public.conversations.create(metadata={"a": "b"})
        await public.responses.create(model="toy", input="a", conversation=begun.id)
        kinds = [item.type async for item in public.conversations.items.list(begun.id)]
        assert kinds == ["message", "message"]
        assert (await public.conversations.delete(begun.id)).deleted


@asynccontextmanager
async def two_ingresses(url, script):
    api = ApiConfig(state_redis_url=url)
    async with AsyncExitStack() as stack:
        apps = [build_app(ScriptedClient(script), config(api), {"toy": toy_model()}) for _ in range(2)]
        for app in apps:
            await stack.enter_async_context(app.router.lifespan_context(app))
        yield [await stack.enter_async_context(talking_to(app)) for app in apps]


@needs_redis
async def test_any_ingress_continues_shows_streams_and_cancels(tmp_path):
    with redis_server(tmp_path) as url:
        async with two_ingresses(url, SLOW) as (one, other):
            made = (await one.post(URL, json={"input": "a"})).json()
            assert (await other.get(f"{URL}/{made['id']}")).json() == made
            second = await other.post(URL, json={"input": "b", "previous_response_id": made["id"]})
            assert second.status_code == 200
            body = {"input": "a", "background": True, "stream": True}
            seen = typed_events((await one.post(URL, json=body)).text)
            again = await other.get(
                f"{URL}/{seen[0]['response']['id']}", params={"stream": "true", "starting_after": 3}
            )
            assert typed_events(again.text) == seen[4:]
            waits = (await one.post(URL, json={"input": "a", "background": True})).json()
            late = await other.get(f"{URL}/{waits['id']}", params={"stream": "true"})
            assert late.status_code == 200
        async with two_ingresses(url, [*says("a", finish=None), 60.0]) as (one, other):
            stuck = (await one.post(URL, json={"input": "a", "background": True})).json()
            cancelled = (await other.post(f"{URL}/{stuck['id']}/cancel")).json()
            assert cancelled["status"] == "cancelled"


@needs_redis
async def test_answers_at_the_same_time_are_all_added_to_their_conversation(tmp_path):
    with redis_server(tmp_path) as url:
        async with two_ingresses(url, says("x")) as (http, _):
            begun = (await http.post(CONVERSATIONS, json={})).json()
            bodies = [{"input": str(number), "conversation": begun["id"]} for number in range(12)]
            await asyncio.gather(*(http.post(URL, json=body) for body in bodies))
            items = (await http.get(f"{CONVERSATIONS}/{begun['id']}/items", params={"limit": 100})).json()["data"]
    assert sorted(item["content"] for item in items if item["role"] == "user") == sorted(map(str, range(12)))


@needs_redis
async def test_an_answer_is_whole_also_if_redis_has_died(tmp_path):
    with redis_server(tmp_path) as url:
        api = ApiConfig(state_redis_url=url)
        app = build_app(ScriptedClient(says("x")), config(api), {"toy": toy_model()})
    async with app.router.lifespan_context(app), talking_to(app) as http:
        assert (await http.post(URL, json={"input": "a"})).json()["status"] == "completed"
        answer = await http.post(URL, json={"input": "a", "previous_response_id": "resp_1"})
        assert answer.status_code == 503 and answer.headers["retry-after"]
