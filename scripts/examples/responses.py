"""A conversation that the server keeps, by OpenAI's Responses API: each request names the one that it continues."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)
model = client.models.list().data[0].id

previous = None
for question in ("What is the capital of France?", "And of Italy?"):
    response = client.responses.create(
        model=model,
        instructions="You are a helpful assistant.",
        input=question,
        previous_response_id=previous,
        temperature=0,
        max_output_tokens=64,
    )
    previous = response.id
    print(response.output_text)
    if response.usage:
        cached = response.usage.input_tokens_details.cached_tokens
        print(f"{response.usage.input_tokens} tokens read, {cached} of them cached")
