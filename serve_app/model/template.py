"""Chat template: renders a conversation with the model's own Jinja template."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import jinja2
import msgspec
from transformers.utils.chat_template_utils import render_jinja_template

from engine.errors import ModelError, RequestError
from serve_app.model.role_order import simpler_orders

__all__ = ["RESERVED", "ChatTemplate", "compile_template"]

# variables that only the server may set
RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversations",
        "documents",
        "messages",
        "return_assistant_tokens_mask",
        "self",
        "tokenize",
        "tools",
        "bos_token",
        "eos_token",
        "unk_token",
        "pad_token",
    }
)

Message = dict[str, Any]


class ChatTemplate(msgspec.Struct, frozen=True):
    """A Jinja template, and its variables for special tokens (`bos_token`, ...)."""

    source: str
    variables: Mapping[str, str]

    def knows(self, word: str) -> bool:
        """Whether the template mentions a role or a variable."""
        return word in self.source

    def render(self, messages: Sequence[Message], /, **options: Any) -> str:
        """The prompt's text.

        options   `tools`, `documents`, `add_generation_prompt`, `continue_final_message` and the template's other
                  variables
        Raises RequestError with the template's own message if it refuses the messages, also in simpler orders of roles.
        """
        shown = [message if message["role"] != "developer" else self._as_known(message) for message in messages]
        options = {**self.variables, **options, "chat_template": self.source}
        try:
            return self._rendered(shown, options)
        except RequestError as error:
            for simpler in simpler_orders(shown):
                if simpler != shown:
                    with suppress(RequestError):
                        return self._rendered(simpler, options)
            raise error

    def _rendered(self, shown: list[Message], options: dict[str, Any]) -> str:
        try:
            rendered = render_jinja_template([shown], **options)
        except jinja2.TemplateError as error:
            raise RequestError(f"the chat template refuses these messages: {error}", param="messages") from error
        except Exception as error:  # of any kind: a template is a program that runs on the client's input
            detail = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
            raise RequestError(f"the chat template cannot render these messages: {detail}", param="messages") from error
        text: str = rendered[0][0]
        return text

    def _as_known(self, message: Message) -> Message:
        return message if self.knows("developer") else {**message, "role": "system"}


def compile_template(source: str, variables: Mapping[str, str]) -> ChatTemplate:
    """Raises ModelError for an invalid Jinja template."""
    template = ChatTemplate(source, variables)
    try:
        template.render([{"role": "user", "content": ""}], add_generation_prompt=True)
    except RequestError as error:
        if isinstance(error.__cause__, jinja2.TemplateSyntaxError):
            raise ModelError(f"the chat template is broken: {error.__cause__}") from error
    return template
