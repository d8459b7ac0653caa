"""A streamed answer by the anthropic SDK, then a call of a tool, whose arguments satisfy its schema."""

import os

import anthropic

client = anthropic.Anthropic(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1").removesuffix("/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)
model = client.models.list().data[0].id

with client.messages.stream(
    model=model,
    max_tokens=64,
    extra_body={"temperature": 0},  # which the SDK has no argument for
    system="You are a helpful assistant.",
    messages=[{"role": "user", "content": "What is the capital of France?"}],
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()

answer = client.messages.create(
    model=model,
    max_tokens=200,
    extra_body={"temperature": 0},  # which the SDK has no argument for
    messages=[{"role": "user", "content": "What is the weather in Paris?"}],
    tools=[
        {
            "name": "get_weather",
            "description": "Get the weather of a city.",
            "input_schema": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 40}},
                "required": ["city"],
            },
        }
    ],
    tool_choice={"type": "tool", "name": "get_weather"},
)
for block in answer.content:
    if block.type == "tool_use":
        print(f"{block.name}({block.input})")
