"""An answer as a pydantic model: decoding is constrained to its JSON schema."""

import os
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)
model = client.models.list().data[0].id


class Review(BaseModel):
    product: str = Field(max_length=40)
    mood: Literal["positive", "neutral", "negative"]
    stars: int = Field(ge=1, le=5)


completion = client.chat.completions.parse(
    model=model,
    messages=[{"role": "user", "content": "Summarize as JSON: I love this lamp, it lights the whole room!"}],
    response_format=Review,
    temperature=0,
    max_tokens=128,
    # the document is finished within max_tokens, or the request is refused before it begins
    extra_body={"structured_outputs": {"fit": True}},
)
review = completion.choices[0].message.parsed
assert review is not None
print(f"{review.product}: {review.mood}, {review.stars} of 5")
