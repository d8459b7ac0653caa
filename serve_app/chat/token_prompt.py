"""A prompt that comes as tokens, where a client has rendered the conversation itself."""

from engine.errors import RequestError
from serve_app.api.requests import ChatRequest
from serve_app.generation.sampling import check_ids
from serve_app.model.text_model import TextModel

__all__ = ["token_prompt"]

# what only a template can do
OF_TEMPLATES = (
    "add_generation_prompt",
    "add_special_tokens",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "echo",
    "reasoning",
    "reasoning_effort",
)


def token_prompt(chat: ChatRequest, model: TextModel) -> tuple[int, ...] | None:
    """The prompt's tokens, None if the messages are to be rendered. Raises RequestError."""
    field = "prompt_token_ids"
    if chat.prompt_token_ids is None:
        if not chat.messages:
            raise RequestError(f"messages: there must be at least one, or a prompt in {field}", param="messages")
        return None
    for name in OF_TEMPLATES:
        if getattr(chat, name) != type(chat).model_fields[name].get_default(call_default_factory=True):
            raise RequestError(f"{name}: not together with {field}, which no template renders", param=name)
    check_ids(field, chat.prompt_token_ids, model.vocabulary.num_tokens)
    return tuple(chat.prompt_token_ids)
