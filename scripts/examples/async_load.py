"""Many concurrent requests. A refusal under load (429, 503) has Retry-After, and the SDK retries."""

import asyncio
import os
import time

from openai import AsyncOpenAI

NUM_REQUESTS = 32
CONCURRENCY = 8


async def main() -> None:
    client = AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
        max_retries=8,
    )
    model = (await client.models.list()).data[0].id
    places = asyncio.Semaphore(CONCURRENCY)

    async def ask(number: int) -> int:
        async with places:
            answer = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"Write one line about the number {number}."}],
                max_tokens=24,
                seed=number,
            )
        assert answer.usage is not None
        return answer.usage.completion_tokens

    began_s = time.monotonic()
    tokens = await asyncio.gather(*(ask(number) for number in range(NUM_REQUESTS)))
    took_s = time.monotonic() - began_s
    print(f"{NUM_REQUESTS} answers, {sum(tokens)} tokens, {sum(tokens) / took_s:.0f} tok/s")
    await client.close()


asyncio.run(main())
