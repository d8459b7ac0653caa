"""The official SDK against the real model: the stream against the whole answer, a crowd against each alone."""

import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

pytestmark = [pytest.mark.ray, pytest.mark.weights]

MODEL = "smollm2-135m-instruct"
SUBJECTS = ["rain", "bread", "the moon", "a violin", "gravity", "tea", "a map", "winter", "bees", "glass"]


def ask(client: openai.OpenAI, text: str, **more: Any) -> ChatCompletion:
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def stream(client: openai.OpenAI, text: str, **more: Any) -> tuple[dict[int, str], dict[int, str], Any]:
    """Text and finish reason of each choice, and the usage."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    usage = None
    messages: Any = [{"role": "user", "content": text}]
    options: Any = {"include_usage": True}
    for chunk in client.chat.completions.create(
        model=MODEL, messages=messages, stream=True, stream_options=options, **more
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                assert choice.index not in reasons
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage


def test_the_model_answers(client: openai.OpenAI) -> None:
    answer = ask(client, "What is the capital of France? Answer in one sentence.", temperature=0, max_tokens=40)
    assert "Paris" in (answer.choices[0].message.content or "")


def test_the_stream_is_the_answer_that_was_not_streamed(client: openai.OpenAI) -> None:
    for subject in SUBJECTS[:5]:
        text = f"Write two sentences about {subject}."
        for more in ({"temperature": 0}, {"temperature": 1.2, "seed": 7, "n": 2}, {"temperature": 0, "stop": ["."]}):
            whole = ask(client, text, max_tokens=48, **more)
            texts, reasons, usage = stream(client, text, max_tokens=48, **more)
            assert texts == {choice.index: choice.message.content for choice in whole.choices}
            assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
            assert whole.usage is not None
            assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
            assert usage.prompt_tokens == whole.usage.prompt_tokens
            if "stop" not in more:  # how many tokens ran past a stop string is a matter of time
                assert usage.completion_tokens == whole.usage.completion_tokens


def test_seeds_reproduce_alone_and_at_concurrency_16(client: openai.OpenAI) -> None:
    def sampled(seed: int) -> str:
        answer = ask(client, "Invent a short name for a cat.", max_tokens=24, temperature=1.0, seed=seed)
        return answer.choices[0].message.content or ""

    alone = [sampled(seed) for seed in range(6)]
    with ThreadPoolExecutor(16) as pool:
        crowd = list(pool.map(sampled, [i % 6 for i in range(48)]))
    assert crowd == [alone[i % 6] for i in range(48)]
    assert len(set(alone)) > 1


def test_200_concurrent_requests_of_mixed_lengths_get_what_each_gets_alone(client: openai.OpenAI) -> None:
    rng = random.Random(5)
    asked = [
        (" ".join(rng.choices(SUBJECTS, k=rng.choice([1, 5, 40, 120]))), rng.choice([1, 4, 8, 16])) for _ in range(200)
    ]

    def greedy(one: tuple[str, int]) -> tuple[str | None, str]:
        answer = ask(client, "Say something about: " + one[0], temperature=0, max_tokens=one[1])
        return answer.choices[0].message.content, answer.choices[0].finish_reason

    with ThreadPoolExecutor(200) as pool:
        crowd = list(pool.map(greedy, asked))
    assert crowd == [greedy(one) for one in asked]


def test_a_client_that_goes_away_frees_its_blocks(client: openai.OpenAI) -> None:
    began_s = time.monotonic()
    with client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Count to a thousand."}],
        stream=True,
        max_tokens=4000,
        extra_body={"ignore_eos": True},
    ) as events:
        for _, _ in zip(range(4), events, strict=False):
            pass
    # were it still running, it would take a third of the machine from these
    for _ in range(3):
        ask(client, "Hello", max_tokens=2)
    assert time.monotonic() - began_s < 60


def test_errors_are_the_sdks_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    assert missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(client, "x", temperature=3)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, "word " * 9000)
    assert long.value.param == "messages" and "8192" in str(long.value)
    assert client.models.retrieve(MODEL).id == client.models.list().data[0].id == MODEL


def test_curl_gets_an_answer_and_a_stream(server: str) -> None:
    body = '{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0%s}'
    curl = ["curl", "-sS", f"{server}/chat/completions", "-H", "Content-Type: application/json", "-d"]
    whole = subprocess.run([*curl, body % ""], capture_output=True, text=True, check=True, timeout=60).stdout
    assert '"finish_reason":"length"' in whole
    events = subprocess.run([*curl, body % ', "stream": true'], capture_output=True, text=True, check=True, timeout=60)
    assert events.stdout.startswith('data: {"id":"chatcmpl-')
    assert events.stdout.endswith("data: [DONE]\n\n")


def test_a_request_bears_the_id_that_its_body_gives_and_its_answer_one_header(client: openai.OpenAI) -> None:
    answer = ask(client, "Say hi.", max_tokens=1, extra_body={"request_id": "mine"})
    assert answer.id == "chatcmpl-mine"
    answer = ask(client, "Say hi.", max_tokens=1)
    assert answer.id == f"chatcmpl-{answer._request_id}"
