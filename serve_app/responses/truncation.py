"""Truncation (`truncation: auto`): leaves out the oldest turns of a conversation that does not fit."""

from bisect import bisect_left

import msgspec

from engine.errors import ContextTooLong
from serve_app.preparation.conversation import ConversationPreparer, PreparedConversation
from serve_app.preparation.generate_request import RequestContext
from serve_app.request.conversation import Conversation, Message

__all__ = ["prepare_truncated"]


def prepare_truncated(
    preparer: ConversationPreparer, conversation: Conversation, context: RequestContext
) -> PreparedConversation:
    """Keeps the system's message and as many of the newest turns as fit. Raises ContextTooLong if not one does."""
    prepared: dict[int, PreparedConversation] = {}
    starts = _turns(conversation.messages)

    def fits(start: int) -> bool:
        kept = _from(conversation, start)
        try:
            prepared[start] = preparer.prepare(kept, context)
        except ContextTooLong:
            return False
        return True

    first = bisect_left(starts, True, key=fits)
    if first == len(starts):  # the error of the shortest one
        return preparer.prepare(_from(conversation, starts[-1]), context)
    return prepared[starts[first]]


def _turns(messages: tuple[Message, ...]) -> list[int]:
    """Where the conversation may begin: at its first message, and at each of the user."""
    first = int(messages[0].role in ("system", "developer"))
    return [first, *(index for index in range(first + 1, len(messages)) if messages[index].role == "user")]


def _from(conversation: Conversation, start: int) -> Conversation:
    messages = conversation.messages
    head = messages[:1] if start > 0 and messages[0].role in ("system", "developer") else ()
    return msgspec.structs.replace(conversation, messages=(*head, *messages[start:]))
