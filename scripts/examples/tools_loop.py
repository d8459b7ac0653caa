"""The model calls functions until it answers. Decoding is constrained to their schemas, so arguments are valid."""

import json
import os
from collections.abc import Callable
from typing import Any

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)
model = client.models.list().data[0].id


def get_weather(city: str, unit: str) -> dict[str, Any]:
    return {"city": city, "temperature": 21, "unit": unit, "sky": "clear"}


FUNCTIONS: dict[str, Callable[..., Any]] = {"get_weather": get_weather}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city, now",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city", "unit"],
            },
        },
    }
]

messages: list[Any] = [{"role": "user", "content": "What is the weather like in Paris?"}]
for turn in range(4):
    answer = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=TOOLS,
        # a small model is told to look first, and to answer in the end
        tool_choice="required" if turn == 0 else "auto" if turn < 3 else "none",
        temperature=0,
        max_tokens=128,
    )
    message = answer.choices[0].message
    messages.append(message)
    if not message.tool_calls:
        print(message.content)
        break
    for call in message.tool_calls:
        assert call.type == "function"
        arguments = json.loads(call.function.arguments)
        result = FUNCTIONS[call.function.name](**arguments)
        print(f"{call.function.name}({arguments}) -> {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})
