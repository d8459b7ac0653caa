"""Token prompts (`prompt_token_ids`, `input_ids`): a conversation that the client has rendered and tokenized."""

from engine.errors import RequestError
from serve_app.api.requests import ChatRequest
from serve_app.request.conversation import TokenPrompt

__all__ = ["token_prompt"]

# fields that need a template
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


def token_prompt(chat: ChatRequest) -> TokenPrompt | None:
    """The token prompt, None if there is none. Raises RequestError."""
    field = chat.token_field
    if field is None:
        if not chat.messages:
            raise RequestError("messages: there must be at least one, or a prompt in prompt_token_ids", "messages")
        return None
    for name in OF_TEMPLATES:
        if getattr(chat, name) != type(chat).model_fields[name].get_default(call_default_factory=True):
            raise RequestError(f"{name}: not together with {field}, which no template renders", param=name)
    return TokenPrompt(tuple(getattr(chat, field)), field)
