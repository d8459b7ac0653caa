import pytest

from tests.serve_app.scripted import ScriptedClient, chat, says, serving
from tests.serve_app.toy import sentencepiece_model, toy_model

LONG = 100_000
MODELS = {"toy": toy_model(max_model_len=LONG)}


@pytest.mark.parametrize("top_p", [0, 0.0])
async def test_top_p_of_zero_asks_for_the_most_likely_token(top_p):
    client = ScriptedClient(says("ok"))
    async with serving(client) as http:
        answers = [
            await http.post("/v1/chat/completions", json=chat(top_p=top_p)),
            await http.post("/v1/completions", json={"prompt": "hi", "top_p": top_p}),
        ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert all(0 < request.sampling.top_p < 1e-6 for request in client.requests)


async def test_log_probabilities_are_bounded_by_their_product():
    client = ScriptedClient(says("ok"), max_model_len=LONG)
    many = {"n": 128, "max_tokens": 8000, "logprobs": True, "top_logprobs": 20}
    async with serving(client, models=MODELS) as http:
        refused = await http.post("/v1/chat/completions", json=chat(**many))
        taken = await http.post("/v1/chat/completions", json=chat(**{**many, "n": 1, "stream": True}))
    assert refused.status_code == 400 and taken.status_code == 200
    error = refused.json()["error"]
    assert error["param"] == "max_tokens" and "20480000 of them, at most 2000000" in error["message"]


async def test_prompts_log_probabilities_are_bounded_by_their_product():
    client = ScriptedClient(says("ok"), max_model_len=LONG)
    async with serving(client, models=MODELS) as http:
        answer = await http.post("/v1/completions", json={"prompt": [5] * 60_000, "prompt_logprobs": 20})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "prompt_logprobs" and "1200000" in error["message"]


async def test_bad_words_are_banned_within_a_text_where_the_tokenizer_adds_a_space_before_one():
    client, model = ScriptedClient(says("ok")), sentencepiece_model()
    async with serving(client, models={"toy": model}) as http:
        await http.post("/v1/chat/completions", json=chat(bad_words=["hello"]))
    banned = client.requests[0].sampling.bad_words
    assert [b"".join(model.vocabulary.all_bytes[token] for token in word) for word in banned] == [b"hello", b" hello"]
