"""What vLLM's clients know beyond OpenAI's API."""

import pytest

from configs.schema import ApiConfig
from tests.serve_app.scripted import ScriptedClient, chat, events, says, serving
from tests.serve_app.toy import CHATML, byte_tokens, toy_model

URL = "/v1/chat/completions"
PREFILL = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "So far"}]


async def post(fields, script=None, api=None, model=None):
    client = ScriptedClient(says("ok") if script is None else script)
    async with serving(client, api, {"toy": model or toy_model()}) as http:
        return client, await http.post(URL, json={**chat(), **fields})


async def prompt_of(fields, **options):
    client, answer = await post(fields, **options)
    assert answer.status_code == 200, answer.text
    return toy_model().tokenizer.decode(list(client.requests[0].prompt), skip_special_tokens=False)


async def joined(fields, script=None):
    _, answer = await post({**fields, "stream": True}, script)
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events(answer.text)[:-1])


async def refused(fields, param, **options):
    _, answer = await post(fields, **options)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    return error["message"]


async def test_the_last_message_is_continued():
    assert (await prompt_of({"messages": PREFILL, "continue_final_message": True})).endswith("assistant\nSo far")


async def test_without_generation_prompt_the_answer_has_the_last_role():
    fields = {"add_generation_prompt": False}
    assert (await prompt_of(fields)).endswith("hi<|im_end|>\n")
    _, answer = await post(fields)
    assert answer.json()["choices"][0]["message"]["role"] == "user"


async def test_continuing_and_opening_an_answer_exclude_each_other():
    await refused(
        {"messages": PREFILL, "continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": PREFILL, "continue_final_message": True}, "So far ok"),
        ({"messages": PREFILL, "continue_final_message": True, "add_generation_prompt": False}, "So far ok"),
        ({}, " ok"),
    ],
)
async def test_echo_begins_with_the_last_message_where_it_is_the_answers_own(fields, text):
    script = says(" ok")
    _, answer = await post({**fields, "echo": True}, script)
    assert answer.json()["choices"][0]["message"]["content"] == text
    assert await joined({**fields, "echo": True}, script) == text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"truncate_prompt_tokens": 5}, "ABC<|im_end|>\n"),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, "<|im_start|>us"),
    ],
)
async def test_a_prompt_is_cut_on_the_side_that_is_asked(fields, expected):
    fields = {"messages": [{"role": "user", "content": "xABC"}], "add_generation_prompt": False, **fields}
    assert await prompt_of(fields) == expected


async def test_a_prompt_is_cut_to_leave_room_for_the_answer():
    long = {"messages": [{"role": "user", "content": "x" * 1000}]}
    client, _ = await post({**long, "truncate_prompt_tokens": -1})
    assert (len(client.requests[0].prompt), client.requests[0].sampling.max_tokens) == (511, 1)
    client, _ = await post({**long, "truncate_prompt_tokens": -1, "max_tokens": 12})
    assert (len(client.requests[0].prompt), client.requests[0].sampling.max_tokens) == (500, 12)


@pytest.mark.parametrize("keep", [-2, 0, 513])
async def test_a_prompt_is_not_cut_to_nothing_or_beyond_the_context(keep):
    await refused({"truncate_prompt_tokens": keep}, "truncate_prompt_tokens")


async def test_what_ended_the_answer_can_be_shown():
    _, answer = await post({"stop": "ll", "include_stop_str_in_output": True}, says("hello"))
    assert answer.json()["choices"][0]["message"]["content"] == "hell"
    token = byte_tokens("!")[0]
    fields = {"stop_token_ids": [token], "include_stop_str_in_output": True}
    _, answer = await post(fields, says("hello!", eos=False))
    assert answer.json()["choices"][0]["message"]["content"] == "hello!"


async def test_special_tokens_are_shown_if_wanted():
    script = says("a<|im_start|>b")
    script[1] = type(script[1])("", 0, 1, (1,))
    _, answer = await post({}, script[:2] + says("b"))
    assert answer.json()["choices"][0]["message"]["content"] == "ab"
    _, answer = await post({"skip_special_tokens": False}, script[:2] + says("b"))
    assert answer.json()["choices"][0]["message"]["content"] == "a<|im_start|>b"


async def test_tokens_are_allowed_and_words_are_banned():
    client, _ = await post({"allowed_token_ids": [5, 6, 5], "bad_words": ["the"]})
    sampling = client.requests[0].sampling
    assert sampling.allowed_token_ids == (5, 6)
    encode = toy_model().encode
    assert set(sampling.bad_words) == {encode("the"), encode(" the")}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
        ({"bad_words": [""]}, "bad_words.0"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"cache_salt": "a/b"}, "cache_salt"),
        ({"cache_salt": "x" * 129}, "cache_salt"),
        ({"priority": 2**63}, "priority"),
        ({"thinking_token_budget": 2**63}, "thinking_token_budget"),
        ({"repetition_detection": {"max_pattern_size": 3, "min_count": 2**63}}, "repetition_detection.min_count"),
        ({"stream_interval": 0}, "stream_interval"),
        ({"chat_template": "x"}, "chat_template"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        ({"documents": ["x"]}, "documents.0"),
        ({"truncation_side": "middle"}, "truncation_side"),
    ],
)
async def test_wrong_values_are_refused(fields, param):
    await refused(fields, param)


async def test_token_ids_are_told_if_wanted():
    client, answer = await post({"return_token_ids": True}, says("ab"))
    body = answer.json()
    assert tuple(body["prompt_token_ids"]) == client.requests[0].prompt
    assert tuple(body["choices"][0]["token_ids"]) == (*byte_tokens("ab"), 2)
    _, answer = await post({"return_token_ids": True, "stream": True}, says("ab"))
    seen = events(answer.text)[:-1]
    assert tuple(seen[0]["prompt_token_ids"]) == client.requests[0].prompt
    assert all("prompt_token_ids" not in event for event in seen[1:])
    assert [token for e in seen for token in e["choices"][0].get("token_ids", [])] == [*byte_tokens("ab"), 2]


async def test_the_prompts_text_is_told_if_wanted():
    client, answer = await post({"return_prompt_text": True, "truncate_prompt_tokens": 5}, says("ab"))
    text = answer.json()["prompt_text"]
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n" and len(client.requests[0].prompt) == 5
    _, answer = await post({"return_prompt_text": True, "stream": True}, says("ab"))
    first, *rest = events(answer.text)[:-1]
    assert first["prompt_text"] == text and not any("prompt_text" in event for event in rest)
    _, answer = await post({}, says("ab"))
    assert "prompt_text" not in answer.json()


async def test_token_ids_are_told_also_while_text_is_held_back():
    _, answer = await post({"return_token_ids": True, "stream": True, "stop": "abc"}, says("abx"))
    seen = events(answer.text)[:-1]
    assert [e["choices"][0].get("token_ids") for e in seen[1:3]] == [[token] for token in byte_tokens("ab")]


async def test_logprobs_may_name_ids():
    _, answer = await post({"logprobs": True, "return_tokens_as_token_ids": True}, says("a", logprobs=True))
    assert answer.json()["choices"][0]["logprobs"]["content"][0]["token"] == f"token_id:{byte_tokens('a')[0]}"


async def test_priority_and_salt_reach_the_engine():
    client, _ = await post({"priority": 3, "cache_salt": "salt"})
    assert (client.requests[0].priority, client.requests[0].cache_salt) == (3, "salt")


async def test_the_template_reads_documents_and_its_own_arguments():
    template = "{{ documents[0].title }}|{{ style }}|{{ messages[0].content }}"
    fields = {"documents": [{"title": "T", "text": "x"}], "chat_template_kwargs": {"style": "brief"}}
    assert await prompt_of(fields, model=toy_model(template=template)) == "T|brief|hi"


async def test_a_clients_template_is_used_where_it_is_trusted():
    fields = {"chat_template": "{{ bos_token }}{{ messages[0].content }}!"}
    assert await prompt_of(fields, api=ApiConfig(trust_request_chat_template=True)) == "<|im_start|>hi!"


@pytest.mark.parametrize("template", ["{% if %}", "{{ 1 / 0 }}"])
async def test_a_clients_broken_template_is_refused(template):
    await refused({"chat_template": template}, "messages", api=ApiConfig(trust_request_chat_template=True))


async def test_events_are_joined_to_the_interval_that_is_asked():
    script = [
        piece for pair in zip(says("abcdefgh", index=0), says("ABCDEFGH", index=1), strict=True) for piece in pair
    ]
    _, answer = await post({"stream": True, "stream_interval": 3, "n": 2, "logprobs": True}, script)
    for index, texts in ((0, ["a", "bcd", "efg", "h"]), (1, ["A", "BCD", "EFG", "H"])):
        mine = [e["choices"][0] for e in events(answer.text)[2:-1] if e["choices"][0]["index"] == index]
        assert [choice["delta"]["content"] for choice in mine] == texts
        assert mine[-1]["finish_reason"] == "stop"


async def test_a_body_may_name_the_request():
    client = ScriptedClient(says("x"))
    async with serving(client) as http:
        answer = await http.post(URL, json=chat(request_id="mine"))
        assert answer.json()["id"] == "chatcmpl-mine" and answer.headers["x-request-id"] == "mine"
        answer = await http.post(URL, json=chat(request_id="mine"), headers={"x-request-id": "theirs"})
        assert answer.json()["id"] == "chatcmpl-theirs"


def test_the_toy_template_is_the_one_assumed_here():
    assert CHATML.startswith("{% for message in messages %}<|im_start|>")


async def test_a_batch_takes_the_options_of_a_conversation():
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    options = {"tools": [tool], "repetition_detection": {"max_pattern_size": 3}, "response_format": {"type": "text"}}
    client = ScriptedClient(says("ok", finish="length"))
    async with serving(client) as http:
        one = await http.post(URL, json={**chat(), **options})
        many = await http.post(f"{URL}/batch", json={"messages": [chat()["messages"]], **options})
    assert one.status_code == many.status_code == 200, many.text
    alone, among = client.requests
    assert (among.prompt, among.sampling.repetition) == (alone.prompt, alone.sampling.repetition)
    assert among.sampling.repetition is not None


async def test_a_prompt_of_tokens_is_read_as_it_is():
    client, _ = await post({})
    rendered = list(client.requests[0].prompt)
    client, answer = await post({"messages": [], "prompt_token_ids": rendered, "return_token_ids": True})
    assert client.requests[0].prompt == tuple(rendered)
    told = answer.json()
    assert told["prompt_token_ids"] == rendered and told["choices"][0]["message"]["content"] == "ok"
    assert told["usage"]["prompt_tokens"] == len(rendered)


@pytest.mark.parametrize("field", ["prompt_token_ids", "input_ids"])  # vLLM's name and SGLang's
async def test_a_prompt_of_tokens_is_read_instead_of_the_messages(field):
    client, _ = await post({field: [5, 6], "tools": []})
    assert client.requests[0].prompt == (5, 6)
    assert await refused({field: [5, -1]}, field)
    assert await refused({field: [5] * 600}, field)


async def test_thinking_is_found_where_a_prompt_of_tokens_ends_in_it():
    model = toy_model(template=CHATML + "{# </think> #}")
    prompt = list(byte_tokens("hi<think>"))
    _, answer = await post({"prompt_token_ids": prompt}, says("hm</think>ok"), model=model)
    assert answer.json()["choices"][0]["message"]["reasoning"] == "hm"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_token_ids": [10**6]}, "prompt_token_ids"),
        ({"prompt_token_ids": [-1]}, "prompt_token_ids"),
        ({"prompt_token_ids": []}, "prompt_token_ids"),
        ({"prompt_token_ids": ["1"]}, "prompt_token_ids.0"),
        ({"prompt_token_ids": [5] * 600}, "prompt_token_ids"),
        ({"messages": []}, "messages"),
        ({"prompt_token_ids": [5], "add_generation_prompt": True}, "add_generation_prompt"),
        ({"prompt_token_ids": [5], "continue_final_message": True}, "continue_final_message"),
        ({"prompt_token_ids": [5], "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"prompt_token_ids": [5], "reasoning_effort": "low"}, "reasoning_effort"),
        ({"prompt_token_ids": [5], "echo": True}, "echo"),
    ],
)
async def test_what_a_prompt_of_tokens_cannot_have_is_refused(fields, param):
    assert await refused(fields, param)
