"""OpenAI's public client, its Agents SDK and LangChain against a real socket."""

import json

import openai
import pydantic
import pytest
from openai.lib.streaming.responses import ResponseStreamEvent

from engine.errors import Overloaded
from tests.serve_app.chat.test_tools import CALL, HERMES
from tests.serve_app.responses.test_responses import WEATHER
from tests.serve_app.scripted import ScriptedClient, says
from tests.serve_app.test_openai_sdk import sdk
from tests.serve_app.toy import toy_model


class City(pydantic.BaseModel):
    name: str


def agent_model():
    return toy_model(template=HERMES + "{# </think> #}", max_model_len=4096)


async def test_an_answer_and_its_stream_are_the_same():
    async with sdk(ScriptedClient(says("naïve 👩‍👩 text", cached=16))) as public:
        whole = await public.responses.create(model="toy", input="hi")
        async with public.responses.stream(model="toy", input="hi") as stream:
            text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
            final = await stream.get_final_response()
    assert whole.output_text == final.output_text == text == "naïve 👩‍👩 text"
    assert whole.usage == final.usage and whole.usage.input_tokens_details.cached_tokens == 16
    assert whole.status == "completed" and whole.error is None


async def test_reasoning_text_and_calls_stream_as_the_helper_wants_them():
    client = ScriptedClient(says(f"<think>Weather.</think>I look. {CALL}", sizes=[3]), max_model_len=4096)
    async with sdk(client, agent_model()) as public:
        asked = {"model": "toy", "input": "hi", "tools": [WEATHER], "include": ["reasoning.encrypted_content"]}
        whole = await public.responses.create(**asked)
        async with public.responses.stream(**asked) as stream:
            events: list[ResponseStreamEvent] = [event async for event in stream]
            final = await stream.get_final_response()
    for response in (whole, final):
        thought, message, call = response.output
        assert thought.content[0].text == "Weather." and thought.encrypted_content
        assert message.content[0].text == "I look. "
        assert json.loads(call.arguments) == {"city": "Paris, 巴黎"} and call.call_id
    assert events[0].type == "response.created" and events[-1].type == "response.completed"


async def test_a_class_is_parsed_whole_and_streamed():
    async with sdk(ScriptedClient(says('{"name": "Paris"}'))) as public:
        parsed = await public.responses.parse(model="toy", input="hi", text_format=City)
        async with public.responses.stream(model="toy", input="hi", text_format=City) as stream:
            final = await stream.get_final_response()
    assert parsed.output_parsed == final.output_parsed == City(name="Paris")


async def test_a_loop_of_tools_ends_in_an_answer():
    client = ScriptedClient(says(f"<think>Weather.</think>{CALL}"), max_model_len=4096)
    async with sdk(client, agent_model()) as public:
        first = await public.responses.create(model="toy", input="hi", tools=[WEATHER], store=False)
        call = first.output[-1]
        client.script = says("It rains.")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        items = [{"role": "user", "content": "hi"}, *first.output, result]
        last = await public.responses.create(model="toy", input=items, tools=[WEATHER], store=False)
    assert last.output_text == "It rains."
    prompt = toy_model().tokenizer.decode(list(client.requests[1].prompt), skip_special_tokens=False)
    assert "<tool_call>Paris, 巴黎</tool_call>" in prompt and "rain" in prompt


async def test_faults_are_the_sdks_exceptions():
    async with sdk(ScriptedClient([Overloaded("full", retry_after_s=1)]), max_retries=0) as public:
        with pytest.raises(openai.BadRequestError) as refused:
            await public.responses.create(model="toy", input="hi", tools=[{"type": "web_search"}])
        assert refused.value.param == "tools.0.type" and "web_search" in str(refused.value)
        with pytest.raises(openai.NotFoundError):
            await public.responses.create(model="no", input="hi")
        with pytest.raises(openai.RateLimitError):
            await public.responses.create(model="toy", input="hi")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_calls_its_tool(stream):
    agents = pytest.importorskip("agents")
    seen = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Get the weather."""
        seen.append(city)
        client.script = says("It rains.")
        return "rain"

    client = ScriptedClient(says(f"<think>Weather.</think>{CALL}"), max_model_len=4096)
    async with sdk(client, agent_model()) as public:
        model = agents.OpenAIResponsesModel("toy", public)
        agent = agents.Agent(name="Weather", instructions="Be kind.", model=model, tools=[get_weather])
        config = agents.RunConfig(tracing_disabled=True)
        if stream:
            result = agents.Runner.run_streamed(agent, "hi", run_config=config)
            kinds = [event.type async for event in result.stream_events()]
            assert "run_item_stream_event" in kinds
        else:
            result = await agents.Runner.run(agent, "hi", run_config=config)
    assert seen == ["Paris, 巴黎"] and result.final_output == "It rains."


async def test_langchain_uses_the_responses_api():
    langchain = pytest.importorskip("langchain_openai")
    client = ScriptedClient(says(f"<think>Weather.</think>I look. {CALL}"), max_model_len=4096)
    async with sdk(client, agent_model()) as public, openai.DefaultAsyncHttpxClient() as http:
        options = {"model": "toy", "base_url": str(public.base_url), "api_key": "EMPTY", "http_async_client": http}
        options["use_responses_api"] = True
        chat = langchain.ChatOpenAI(**options, stream_usage=True).bind_tools([WEATHER])
        whole = await chat.ainvoke("hi")
        pieces = [piece async for piece in chat.astream("hi")]
        client.script = says('{"name": "Paris"}')
        city = await langchain.ChatOpenAI(**options).with_structured_output(City, method="json_schema").ainvoke("hi")
    assert whole.tool_calls[0]["args"] == {"city": "Paris, 巴黎"} and whole.text == "I look. "
    assert "".join(piece.text for piece in pieces) == "I look. " and city == City(name="Paris")
    assert whole.usage_metadata["total_tokens"] > 0
