"""Rows of the wire, from raw bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve_app.scripted import ScriptedClient, chat, events, says, serving

URL = "/v1/chat/completions"


async def post(client, **fields):
    async with serving(client) as http:
        return await http.post(URL, json=chat(**fields))


async def streamed(client, **fields):
    answer = await post(client, stream=True, **fields)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events(answer.text)


async def test_a_whole_answer_has_every_field():
    answer = await post(ScriptedClient(says("Hi there", cached=16)))
    body = answer.json()
    assert answer.status_code == 200
    assert body["id"] == f"chatcmpl-{answer.headers['x-request-id']}"
    assert body["object"] == "chat.completion"
    assert body["model"] == "toy"
    assert body["system_fingerprint"].startswith("manta-")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi there"},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": None,
        }
    ]
    for name in ("service_tier", "prompt_token_ids", "prompt_logprobs", "kv_transfer_params"):
        assert body[name] is None
    prompt_tokens = body["usage"]["prompt_tokens"]
    assert body["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 9,
        "total_tokens": prompt_tokens + 9,
        "prompt_tokens_details": {"cached_tokens": 16},
    }


async def test_a_stream_has_role_text_finish_and_end_in_this_order():
    seen = await streamed(ScriptedClient(says("Hi")))
    assert seen[-1] == "[DONE]"
    heads = {(event["id"], event["object"], event["created"], event["model"]) for event in seen[:-1]}
    assert len(heads) == 1
    assert [event["choices"][0]["delta"] for event in seen[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "H"},
        {"content": "i"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in seen[:-1]] == [None, None, None, "stop"]
    assert all("usage" not in event for event in seen[:-1])
    assert ["system_fingerprint" in event for event in seen[:-1]] == [False, False, False, True]


async def test_with_several_choices_every_role_comes_before_any_text():
    script = [*says("ab", index=1), *says("c", index=0)]
    seen = await streamed(ScriptedClient(script), n=2)
    assert [(e["choices"][0]["index"], e["choices"][0]["delta"].get("role")) for e in seen[:2]] == [
        (0, "assistant"),
        (1, "assistant"),
    ]
    assert sum(event["choices"][0]["finish_reason"] is not None for event in seen[:-1]) == 2


async def test_usage_comes_last_and_only_if_asked_for():
    seen = await streamed(ScriptedClient(says("Hi")), stream_options={"include_usage": True})
    assert seen[-2]["choices"] == []
    assert seen[-2]["usage"]["completion_tokens"] == 3
    assert "system_fingerprint" in seen[-2] and "system_fingerprint" not in seen[-3]
    assert all("usage" not in event for event in seen[:-2])


async def test_continuous_usage_counts_each_choice_from_zero():
    options = {"include_usage": True, "continuous_usage_stats": True}
    script = [*says("a", index=0), *says("bc", index=1)]
    seen = await streamed(ScriptedClient(script), n=2, stream_options=options)
    counts = [(e["choices"][0]["index"], e["usage"]["completion_tokens"]) for e in seen[:-2]]
    assert counts == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]
    assert seen[-2]["usage"]["completion_tokens"] == 5


async def test_continuous_usage_alone_does_nothing():
    seen = await streamed(ScriptedClient(says("a")), stream_options={"continuous_usage_stats": True})
    assert all("usage" not in event for event in seen[:-1])


async def test_a_stop_string_is_cut_and_told_and_the_engine_is_stopped():
    client = ScriptedClient(says("one\nUser: two"))
    seen = await streamed(client, stop=["\nUser:"])
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in seen[:-1]) == "one"
    assert seen[-2]["choices"][0]["finish_reason"] == "stop"
    assert seen[-2]["choices"][0]["stop_reason"] == "\nUser:"
    assert client.num_closed == 1 and client.stopped == []


async def test_a_stop_string_of_one_choice_leaves_the_others_running():
    client = ScriptedClient([*says("aXb", index=0), *says("cd", index=1)])
    body = (await post(client, n=2, stop="X")).json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["a", "cd"]
    assert [index for _, index in client.stopped] == [0]
    assert body["usage"]["completion_tokens"] == 2 + 3


async def test_min_tokens_lets_an_early_stop_string_pass():
    body = (await post(ScriptedClient(says("aXbXc")), stop="X", min_tokens=3)).json()
    assert body["choices"][0]["message"]["content"] == "aXb"


async def test_a_stop_token_of_the_client_is_told_and_not_shown():
    token = 4 + ord("!")
    client = ScriptedClient(says("Hi!", eos=False))
    body = (await post(client, stop_token_ids=[token])).json()
    assert body["choices"][0]["message"]["content"] == "Hi"
    assert body["choices"][0]["stop_reason"] == token
    assert client.requests[0].sampling.stop_token_ids == (2, token)


async def test_length_is_told():
    body = (await post(ScriptedClient(says("Hi", finish="length")), max_tokens=2)).json()
    assert (body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == ("length", 2)


async def test_logprobs_have_real_bytes_that_join_to_the_text():
    text = "é👩‍👩"
    body = (await post(ScriptedClient(says(text, logprobs=True)), logprobs=True, top_logprobs=3)).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in content) == text.encode()
    assert len(content) == len(text.encode()) + 1
    assert content[0]["token"] == "\N{REPLACEMENT CHARACTER}"
    top = [alternative["logprob"] for alternative in content[0]["top_logprobs"]]
    assert top == sorted(top, reverse=True) == [-0.5, -1.5, -9999.0]


async def test_every_token_has_its_logprobs_in_a_stream_too_also_while_text_is_held_back():
    client = ScriptedClient(says("aé\nUs", logprobs=True))
    seen = await streamed(client, logprobs=True, stop=["\nUser"])
    content = [entry for e in seen[:-1] for entry in (e["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert b"".join(bytes(entry["bytes"]) for entry in content) == "aé\nUs".encode()
    assert all(entry["top_logprobs"] == [] for entry in content)


async def test_line_separators_do_not_break_line_readers():
    answer = await post(ScriptedClient(says("a\u2028b\x85c\u2029", sizes=[20])), stream=True)
    lines = [line for line in answer.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert events(answer.text)[1]["choices"][0]["delta"]["content"] == "a\u2028b\x85c\u2029"


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text("abX é日\n👩", max_size=12), min_size=1, max_size=3),
    stops=st.lists(st.text("abX é", min_size=1, max_size=3), max_size=2),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
async def test_the_stream_joined_is_the_whole_answer(texts, stops, sizes, order):
    queues = [says(text, index=index, sizes=sizes, logprobs=True) for index, text in enumerate(texts)]
    script = []
    while any(queues):
        script.append(order.choice([queue for queue in queues if queue]).pop(0))
    fields = {"n": len(texts), "stop": stops, "logprobs": True}
    whole = (await post(ScriptedClient(script), **fields)).json()
    seen = await streamed(ScriptedClient(script), stream_options={"include_usage": True}, **fields)
    assert seen[-2]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [e["choices"][0] for e in seen[:-2] if e["choices"][0]["index"] == choice["index"]]
        assert "".join(event["delta"].get("content", "") for event in mine) == choice["message"]["content"]
        assert [e["finish_reason"] for e in mine if e["finish_reason"]] == [choice["finish_reason"]]
        assert mine[-1]["stop_reason"] == choice["stop_reason"]
        told = [entry for event in mine if event["logprobs"] for entry in event["logprobs"]["content"]]
        assert told == choice["logprobs"]["content"]


@pytest.mark.parametrize(
    ("asked", "given_id"), [("abc-1.2:3_x", "abc-1.2:3_x"), ("a b\té", "ab"), ("x" * 500, "x" * 128)]
)
async def test_the_clients_request_id_is_kept_and_cleaned(asked, given_id):
    client = ScriptedClient(says("x"))
    async with serving(client) as http:
        answer = await http.post(URL, json=chat(), headers=[(b"x-request-id", asked.encode())])
    assert answer.headers["x-request-id"] == given_id
    assert answer.json()["id"] == f"chatcmpl-{given_id}"
    assert client.requests[0].request_id.startswith(f"{given_id}-")


async def test_one_client_id_used_twice_is_two_requests_for_the_engine():
    client = ScriptedClient(says("x"))
    async with serving(client) as http:
        for _ in range(2):
            await http.post(URL, json=chat(), headers={"x-request-id": "same"})
    assert len({request.request_id for request in client.requests}) == 2
