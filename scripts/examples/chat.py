"""One answer, by the openai SDK."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)
model = client.models.list().data[0].id

answer = client.chat.completions.create(
    model=model,
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    temperature=0,
    max_tokens=64,
)
print(answer.choices[0].message.content)
if answer.usage:
    print(f"{answer.usage.prompt_tokens} tokens read, {answer.usage.completion_tokens} written")
