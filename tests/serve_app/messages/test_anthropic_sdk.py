"""Anthropic's public client against a real socket: whole answers, streams, a loop of tools, errors, models."""

import anthropic
import pydantic
import pytest

from configs.schema import ApiConfig
from engine.errors import EngineFailed, Overloaded
from tests.serve_app.chat.test_tools import CALL, HERMES, THINKING
from tests.serve_app.messages.anthropic_sdk import sdk
from tests.serve_app.messages.test_messages import WEATHER
from tests.serve_app.scripted import ScriptedClient, says
from tests.serve_app.toy import toy_model

ASKED = {"model": "toy", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}


def thinking_model():
    return toy_model(template=HERMES + "{# </think> #}", max_model_len=4096)


async def test_an_answer_and_its_stream_are_the_same():
    async with sdk(ScriptedClient(says("naïve 👩‍👩 text", cached=16))) as public:
        whole = await public.messages.create(**ASKED)
        async with public.messages.stream(**ASKED) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text == "naïve 👩‍👩 text"
    assert (whole.stop_reason, whole.role, whole.type) == ("end_turn", "assistant", "message")
    assert final.usage == whole.usage and whole.usage.cache_read_input_tokens == 16
    assert whole._request_id and whole.id == f"msg_{whole._request_id}"


async def test_thinking_text_and_calls_stream_as_the_helper_wants_them():
    client = ScriptedClient(says(f"<think>Weather.</think>I look. {CALL}", sizes=[3]), max_model_len=4096)
    async with sdk(client, thinking_model()) as public:
        whole = await public.messages.create(**ASKED, tools=[WEATHER])
        async with public.messages.stream(**ASKED, tools=[WEATHER]) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_message()
    for message in (whole, final):
        thought, text, call = message.content
        assert thought.thinking == "Weather." and thought.signature and text.text == "I look. "
        assert call.input == {"city": "Paris, 巴黎"} and message.stop_reason == "tool_use"
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert {"thinking", "signature", "text", "input_json"} <= set(kinds)


async def test_a_loop_of_tools_ends_in_an_answer():
    client = ScriptedClient(says(f"<think>Weather.</think>{CALL}"), max_model_len=4096)
    async with sdk(client, thinking_model()) as public:
        messages = list(ASKED["messages"])
        first = await public.messages.create(**{**ASKED, "messages": messages}, tools=[WEATHER])
        call = next(block for block in first.content if block.type == "tool_use")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
        messages += [first.to_param(), {"role": "user", "content": [result]}]
        client.script = says("It rains.")
        last = await public.messages.create(**{**ASKED, "messages": messages}, tools=[WEATHER])
    assert last.content[0].text == "It rains." and last.stop_reason == "end_turn"
    prompt = toy_model().tokenizer.decode(list(client.requests[1].prompt), skip_special_tokens=False)
    assert "<tool_call>Paris, 巴黎</tool_call>" in prompt and "rain" in prompt


async def test_the_tool_runner_runs_tools():
    seen = []

    @anthropic.beta_async_tool
    async def get_weather(city: str) -> str:
        """Get the weather."""
        seen.append(city)
        client.script = says("It rains.")
        return "rain"

    client = ScriptedClient(says(CALL), max_model_len=4096)
    async with sdk(client, thinking_model()) as public:
        runner = public.beta.messages.tool_runner(**ASKED, tools=[get_weather])
        answers = [message async for message in runner]
    assert seen == ["Paris, 巴黎"] and answers[-1].content[0].text == "It rains."


async def test_a_class_is_parsed():
    class City(pydantic.BaseModel):
        name: str

    async with sdk(ScriptedClient(says('{"name": "Paris"}'))) as public:
        parsed = await public.messages.parse(**ASKED, output_format=City)
    assert parsed.parsed_output == City(name="Paris")


async def test_tokens_are_counted():
    async with sdk(ScriptedClient(says("x"))) as public:
        whole = await public.messages.create(**ASKED)
        counted = await public.messages.count_tokens(model="toy", messages=ASKED["messages"])
    assert counted.input_tokens == whole.usage.input_tokens


async def test_models_have_anthropics_shape():
    async with sdk(ScriptedClient()) as public:
        models = [model async for model in public.models.list(limit=1)]
        one = await public.models.retrieve("org/alias")
    assert [model.id for model in models] == ["toy", "org/alias"]
    assert one.type == "model" and one.max_input_tokens == 512 and one.created_at.year > 2000


async def test_faults_are_the_sdks_exceptions():
    client = ScriptedClient([Overloaded("full", retry_after_s=1)])
    async with sdk(client, api=ApiConfig(api_keys=("s3cret",)), api_key="s3cret", max_retries=0) as public:
        with pytest.raises(anthropic.BadRequestError, match=r"temperature: must be"):
            await public.messages.create(**ASKED, extra_body={"temperature": 7})
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await public.messages.create(**{**ASKED, "model": "no"})
        assert unknown.value.type == "not_found_error" and unknown.value.request_id
        with pytest.raises(anthropic.RateLimitError) as full:
            await public.messages.create(**ASKED)
        assert full.value.response.headers["retry-after"] == "1"
        with pytest.raises(anthropic.AuthenticationError):
            await public.with_options(api_key="wrong").messages.create(**ASKED)


async def test_a_stream_that_breaks_is_an_exception():
    async with sdk(ScriptedClient([*says("ab", finish=None), EngineFailed("broke")]), max_retries=0) as public:
        with pytest.raises(anthropic.APIStatusError, match="the engine failed"):
            async with public.messages.stream(**ASKED) as stream:
                await stream.until_done()


async def test_omitted_thinking_has_a_signature():
    client = ScriptedClient(says("<think>hm</think>4"))
    async with sdk(client, toy_model(template=THINKING)) as public:
        whole = await public.messages.create(**ASKED, thinking={"type": "adaptive", "display": "omitted"})
    assert whole.content[0].thinking == "" and whole.content[0].signature
