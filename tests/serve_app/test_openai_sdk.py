"""The public client against a real socket."""

import asyncio
import socket
from contextlib import asynccontextmanager

import openai
import pytest
import uvicorn

from engine.errors import Overloaded
from tests.serve_app.scripted import ScriptedClient, build_app, config, says
from tests.serve_app.toy import toy_model

MESSAGES = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def sdk(client, model=None, **options):
    app = build_app(client, config(), {"toy": model or toy_model()})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        async with openai.AsyncOpenAI(api_key="EMPTY", base_url=url, **options) as public:
            yield public
        server.should_exit = True
        await running


async def test_an_answer_and_its_stream_are_the_same():
    async with sdk(ScriptedClient(says("naïve 👩‍👩 text"))) as public:
        whole = await public.chat.completions.create(model="toy", messages=MESSAGES)
        stream = await public.chat.completions.create(
            model="toy", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content == "naïve 👩‍👩 text"
    assert chunks[-1].usage == whole.usage
    assert whole.usage.prompt_tokens_details.cached_tokens == 0


async def test_the_answer_goes_back_as_a_message():
    client = ScriptedClient(says("ok"))
    async with sdk(client) as public:
        first = await public.chat.completions.create(model="toy", messages=MESSAGES)
        messages = [*MESSAGES, first.choices[0].message, {"role": "user", "content": "and?"}]
        await public.chat.completions.create(model="toy", messages=messages)
    assert len(client.requests[1].prompt) > len(client.requests[0].prompt)


async def test_models_are_listed_and_retrieved():
    async with sdk(ScriptedClient()) as public:
        assert [model.id async for model in public.models.list()] == ["toy", "org/alias"]
        assert (await public.models.retrieve("org/alias")).id == "org/alias"


async def test_faults_are_the_sdks_exceptions():
    async with sdk(ScriptedClient([Overloaded("full", retry_after_s=1)]), max_retries=0) as public:
        with pytest.raises(openai.BadRequestError) as refused:
            await public.chat.completions.create(model="toy", messages=MESSAGES, temperature=7)
        assert refused.value.param == "temperature"
        with pytest.raises(openai.NotFoundError):
            await public.chat.completions.create(model="no", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as full:
            await public.chat.completions.create(model="toy", messages=MESSAGES)
        assert full.value.response.headers["retry-after"] == "1"


async def test_a_client_that_closes_its_stream_ends_the_request():
    client = ScriptedClient([*says("ab", finish=None), 60.0])
    async with sdk(client) as public:
        stream = await public.chat.completions.create(model="toy", messages=MESSAGES, stream=True)
        await anext(aiter(stream))
        await stream.close()
        async with asyncio.timeout(30):
            await client.closed.wait()
    assert client.num_closed == 1


async def test_logprobs_parse():
    async with sdk(ScriptedClient(says("hi", logprobs=True))) as public:
        answer = await public.chat.completions.create(model="toy", messages=MESSAGES, logprobs=True, top_logprobs=2)
    assert bytes(answer.choices[0].logprobs.content[0].bytes) == b"h"
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
