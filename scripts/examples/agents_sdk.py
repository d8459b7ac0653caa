"""An agent with a tool, by openai-agents."""

import asyncio
import os

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI


@function_tool  # type: ignore[untyped-decorator,unused-ignore]  # where it is not installed
def multiply(left: int, right: int) -> int:
    """Multiplies two integers."""
    print(f"multiply({left}, {right})")
    return left * right


async def main() -> None:
    set_tracing_disabled(True)  # traces go to OpenAI
    client = AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
    )
    name = (await client.models.list()).data[0].id
    agent = Agent(
        name="Calculator",
        instructions="Use the tool to calculate.",
        model=OpenAIChatCompletionsModel(model=name, openai_client=client),
        tools=[multiply],
        # a small model is told to call, and what the tool says is the answer; larger ones need neither
        model_settings=ModelSettings(tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=64),
        tool_use_behavior="stop_on_first_tool",
    )
    result = await Runner.run(agent, "What is 6 times 7?")
    print(result.final_output)
    await client.close()


asyncio.run(main())
