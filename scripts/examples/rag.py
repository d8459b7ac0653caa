"""Retrieval-augmented generation (RAG): the best matching documents are sent with the question."""

import os
import re
from typing import Any

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"),
)
model = client.models.list().data[0].id

DOCUMENTS = [
    {"title": "Opening hours", "text": "The museum is open from 10 to 18, and closed on Mondays."},
    {"title": "Tickets", "text": "A ticket costs 12 euros. Children under 12 enter free of charge."},
    {"title": "Getting here", "text": "Take tram 4 to the harbour. There is no car park."},
]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w{3,}", text.lower()))


def retrieve(question: str, count: int) -> list[dict[str, str]]:
    """The documents with most words in common; a real one queries an index of embeddings."""
    asked = words(question)
    ranked = sorted(DOCUMENTS, key=lambda one: -len(asked & words(" ".join(one.values()))))
    return ranked[:count]


def ask(question: str, takes_documents: bool = False) -> str:
    """`takes_documents`: the model's chat template has `documents` (Granite, Command R)."""
    found = retrieve(question, 2)
    more: dict[str, Any] = {"documents": found} if takes_documents else {}
    # the same documents in the same order at the front are a prefix that later questions share
    shown = "" if takes_documents else "\n".join(f"{one['title']}: {one['text']}" for one in found)
    answer = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": f"Answer from what is written here.\n{shown}"},
            {"role": "user", "content": question},
        ],
        temperature=0,
        max_tokens=48,
        extra_body=more,
    )
    sources = ", ".join(one["title"] for one in found)
    return f"{answer.choices[0].message.content} [from: {sources}]"


print(ask("How much does a ticket cost?"))
