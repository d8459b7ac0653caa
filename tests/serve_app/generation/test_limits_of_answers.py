"""What ends an answer or its thinking early, and what is told of named tokens and of the prompt's."""

import msgspec
import pytest

from configs.schema import ApiConfig
from engine.types import PromptLogprob, ReasoningBudget, RepetitionLimit
from serve_app.text.reasoning_parser import ReasoningFormat
from tests.serve_app.scripted import ScriptedClient, chat, events, says, serving
from tests.serve_app.toy import toy_model

URL = "/v1/chat/completions"
THINK = ReasoningFormat("toy", "<tool_call>", "<|im_start|>")  # tokens 3 and 1


async def post(fields, script=None, model=None, url=URL, api=None):
    client = ScriptedClient(says("ok") if script is None else script)
    async with serving(client, api, {"toy": model or toy_model()}) as http:
        return client, await http.post(url, json={**chat(), **fields})


async def asked(fields, **options):
    client, answer = await post(fields, **options)
    assert answer.status_code == 200, answer.text
    return client.requests[0].sampling


async def refused(fields, **options):
    _, answer = await post(fields, **options)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]["param"]


@pytest.mark.parametrize(
    ("format_", "limit"),
    [
        (THINK, ReasoningBudget(5, (1,), (3,))),
        (msgspec.structs.replace(THINK, always=True), ReasoningBudget(5, (1,))),
        (msgspec.structs.replace(THINK, opens="assistant"), ReasoningBudget(5, (1,))),  # the template writes it
        (msgspec.structs.replace(THINK, closes="assistant"), None),
        (None, None),
    ],
)
async def test_a_thinking_budget_is_told_to_the_engine(format_, limit):
    model = toy_model(reasoning_format=format_)
    assert (await asked({"thinking_token_budget": 5}, model=model)).thinking == limit
    assert (await asked({"thinking_token_budget": -1}, model=model)).thinking is None
    for same in ({"thinking_budget_tokens": 5}, {"reasoning": {"max_tokens": 5}}):  # llama.cpp's, SGLang's
        assert (await asked(same, model=model)).thinking == limit


async def test_markers_without_tokens_of_their_own_are_written_in_several():
    model = toy_model(reasoning_format=ReasoningFormat("think", "<think>", "</think>"))
    opens, closes = (model.encode(text) for text in ("<think>", "</think>"))
    assert len(closes) > 1
    assert (await asked({"thinking_token_budget": 5}, model=model)).thinking == ReasoningBudget(5, closes, opens)
    assert await refused({"thinking_token_budget": -2}) == "thinking_token_budget"


async def test_a_repetition_ends_the_answer_under_its_own_name():
    fields = {"repetition_detection": {"max_pattern_size": 4, "min_count": 3}}
    assert (await asked(fields)).repetition == RepetitionLimit(1, 4, 3)
    assert (await asked({"repetition_detection": {"min_count": 3}})).repetition is None
    script = says("ababab", finish="repetition")
    _, answer = await post(fields, script)
    assert answer.json()["choices"][0]["finish_reason"] == "repetition"
    _, answer = await post({**fields, "stream": True}, script)
    assert events(answer.text)[-2]["choices"][0]["finish_reason"] == "repetition"


@pytest.mark.parametrize(
    ("detection", "param"),
    [
        ({"max_pattern_size": 10**18, "min_count": 2}, "repetition_detection.max_pattern_size"),
        ({"max_pattern_size": 4, "min_count": 1}, "repetition_detection.min_count"),
        ({"max_pattern_size": -1, "min_count": 2}, "repetition_detection.max_pattern_size"),
        ({"max_pattern_size": 2, "min_pattern_size": 3}, "repetition_detection"),
    ],
)
async def test_a_wrong_repetition_is_named(detection, param):
    assert await refused({"repetition_detection": detection}) == param


def naming(*named):
    return [
        msgspec.structs.replace(
            chunk, logprobs=tuple(msgspec.structs.replace(entry, named=named) for entry in chunk.logprobs)
        )
        for chunk in says("a", logprobs=True)
    ]


async def test_named_tokens_are_told_instead_of_the_most_likely_ones():
    z, y = 4 + ord("z"), 4 + ord("y")
    fields = {"logprobs": True, "top_logprobs": 3, "logprob_token_ids": [z, y]}
    client, answer = await post(fields, naming((z, -7.0), (y, -6.0)))
    assert client.requests[0].sampling.logprob_token_ids == (z, y)
    top = answer.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert [(entry["token"], entry["logprob"]) for entry in top] == [("a", -0.5), ("y", -6.0), ("z", -7.0)]
    fields = {"prompt": "x", "logprobs": 3, "logprob_token_ids": [z]}
    _, answer = await post(fields, naming((z, -7.0)), url="/v1/completions")
    assert answer.json()["choices"][0]["logprobs"]["top_logprobs"][0] == {"a": -0.5, "z": -7.0}


@pytest.mark.parametrize("fields", [{}, {"logprobs": True, "logprob_token_ids": [10**6]}])
async def test_wrong_named_tokens_are_named(fields):
    assert await refused({"logprob_token_ids": [5], **fields}) == "logprob_token_ids"


SCORED = (PromptLogprob(5, -1.5, 2, ((6, -0.5), (5, -1.5))), PromptLogprob(7, -0.25, 1, ((7, -0.25),)))
TOLD = [
    None,
    {
        "5": {"logprob": -1.5, "rank": 2, "decoded_token": "\x01"},
        "6": {"logprob": -0.5, "rank": 1, "decoded_token": "\x02"},
    },
    {"7": {"logprob": -0.25, "rank": 1, "decoded_token": "\x03"}},
]


async def test_the_prompts_log_probabilities_are_told_once():
    first, *rest = says("ok")
    script = [msgspec.structs.replace(first, prompt_logprobs=SCORED), *rest]
    client, answer = await post({"prompt_logprobs": 2}, script)
    assert client.requests[0].sampling.num_prompt_logprobs == 2
    assert answer.json()["prompt_logprobs"] == TOLD
    _, answer = await post({"prompt": [4, 5, 7], "prompt_logprobs": 2}, script, url="/v1/completions")
    assert answer.json()["choices"][0]["prompt_logprobs"] == TOLD
    _, answer = await post({}, says("ok"))
    assert answer.json()["prompt_logprobs"] is None


async def test_minus_one_is_the_whole_vocabulary_where_that_may_be_told():
    api = ApiConfig(max_logprobs=1000)
    num_tokens = toy_model().vocabulary.num_tokens
    assert (await asked({"prompt_logprobs": -1}, api=api)).num_prompt_logprobs == num_tokens


@pytest.mark.parametrize(
    "fields", [{"prompt_logprobs": -1}, {"prompt_logprobs": 21}, {"prompt_logprobs": -2}, {"prompt_logprobs": "1"}]
)
async def test_too_many_of_the_prompts_log_probabilities_are_refused(fields):
    assert await refused(fields) == "prompt_logprobs"
    assert await refused({"prompt_logprobs": 1, "stream": True}) == "prompt_logprobs"
    batch = {"messages": [chat()["messages"]], "prompt_logprobs": 1}
    assert await refused(batch, url="/v1/chat/completions/batch") == "prompt_logprobs"
