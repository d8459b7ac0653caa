"""The public clients read streams whose events have ids as they read those without."""

from tests.serve_app.chat.test_tools import CALL, HERMES
from tests.serve_app.messages import anthropic_sdk
from tests.serve_app.messages.test_messages import WEATHER
from tests.serve_app.responses.test_responses import WEATHER as RESPONSES_WEATHER
from tests.serve_app.scripted import ScriptedClient, says
from tests.serve_app.test_openai_sdk import sdk
from tests.serve_app.toy import toy_model

MESSAGES = [{"role": "user", "content": "hi"}]
SAID = says(f"naïve 👩‍👩 text\n\n {CALL}")
KEY = {"Idempotency-Key": "k"}


def model():
    return toy_model(template=HERMES, max_model_len=4096)


async def test_openais_client_reads_chat_streams():
    tool = {"type": "function", "function": {"name": WEATHER["name"], "parameters": WEATHER["input_schema"]}}
    async with sdk(ScriptedClient(SAID, max_model_len=4096), model()) as public:
        asked = {"model": "toy", "messages": MESSAGES, "tools": [tool]}
        found = []
        for headers in ({}, KEY):
            async with public.chat.completions.stream(**asked, extra_headers=headers) as stream:
                found.append((await stream.get_final_completion()).choices[0])
    plain, with_ids = ((one.message.content, one.message.tool_calls[0].function, one.finish_reason) for one in found)
    assert plain == with_ids and plain[2] == "tool_calls"


async def test_openais_client_reads_responses():
    async with sdk(ScriptedClient(SAID, max_model_len=4096), model()) as public:
        found = []
        for headers in ({}, KEY):
            asked = {"model": "toy", "input": "hi", "tools": [RESPONSES_WEATHER], "extra_headers": headers}
            async with public.responses.stream(**asked) as stream:
                kinds = [event.type async for event in stream]
                final = await stream.get_final_response()
            found.append((kinds, final.output_text, [item.type for item in final.output], final.usage))
    assert found[0] == found[1]


async def test_anthropics_client_reads_messages():
    async with anthropic_sdk.sdk(ScriptedClient(SAID, max_model_len=4096), model()) as public:
        asked = {"model": "toy", "max_tokens": 100, "messages": MESSAGES, "tools": [WEATHER]}
        found = []
        for headers in ({}, KEY):
            async with public.messages.stream(**asked, extra_headers=headers) as stream:
                kinds = [event.type async for event in stream]
                final = await stream.get_final_message()
            blocks = [block.model_dump(exclude={"id"}) for block in final.content]
            found.append((kinds, blocks, final.usage, final.stop_reason))
    assert found[0] == found[1]
