"""A streamed answer: its time to first token, and how much of the prompt was in the prefix cache."""

import os
import time

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)
model = client.models.list().data[0].id

began_s = time.monotonic()
first_s = 0.0
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Tell me about AI"}],
    max_tokens=60,
    seed=1,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    if chunk.choices and (text := chunk.choices[0].delta.content):
        first_s = first_s or time.monotonic() - began_s
        print(text, end="", flush=True)
    if chunk.usage:  # the last chunk's, which has no choices
        details = chunk.usage.prompt_tokens_details
        cached = details.cached_tokens if details else 0
        print(f"\n{chunk.usage.completion_tokens} tokens, first after {first_s:.2f} s, {cached} of the prompt cached")
