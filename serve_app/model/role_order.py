"""Role order: conversations that a strict chat template refuses, rewritten so that roles alternate.

Agents send system messages in the middle of a conversation, and several messages of the user in a row. Most templates
render them; others raise an error for them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["simpler_orders"]

Message = dict[str, Any]


def simpler_orders(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The messages with only a first one of the system, then with none; neighbors of the user are one message."""
    after_first = [*messages[:1], *map(_as_user, messages[1:])]
    yield _joined(after_first)
    yield _joined([_as_user(message) for message in messages])


def _as_user(message: Message) -> Message:
    return {**message, "role": "user"} if message["role"] in ("system", "developer") else message


def _joined(messages: Sequence[Message]) -> list[Message]:
    found: list[Message] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"] == "user":
            found[-1] = {**found[-1], "content": f"{found[-1]['content']}\n{message['content']}"}
        else:
            found.append(message)
    return found
