"""From a chat request to what the engine is asked, and how its tokens become text. Pure: nothing waits here."""

from collections.abc import Sequence
from typing import Any

import msgspec

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.limits import at_most, check_limits
from serve_app.api.requests import ChatBatchRequest, ChatFields, ChatRequest, Message
from serve_app.chat.conversation import template_messages
from serve_app.chat.functions import in_words_of_functions, in_words_of_tools
from serve_app.chat.token_prompt import token_prompt
from serve_app.generation.answer_parser import ParseRules
from serve_app.generation.prompt import check_text_fits
from serve_app.generation.request import Fresh, Prepared, Wanted, part_of, prepare
from serve_app.grammar.constraint import Constraint, constraint_of
from serve_app.model.template import RESERVED
from serve_app.model.text_model import TextModel
from serve_app.text.thinking import Place
from serve_app.tools.grammar import tool_constraint
from serve_app.tools.harmony_grammar import harmony_constraint
from serve_app.tools.json_formats import GENERIC
from serve_app.tools.prompt import with_tools_in_text
from serve_app.tools.use import ToolUse, tool_use

__all__ = ["PreparedChat", "chat_prompt", "conversation", "prepare_chat", "prepare_chat_batch"]

Constraints = dict[Place | None, Constraint | None]


class PreparedChat(msgspec.Struct, frozen=True):
    generation: Prepared
    role: str  # of the answer
    echo: str  # what every choice begins with
    prompt: str  # as rendered
    calls_functions: bool  # calls are told as they were before tools


def prepare_chat(
    chat: ChatRequest, model: TextModel, limits: ApiConfig, fresh: Fresh, max_model_len: int
) -> PreparedChat:
    """Raises RequestError for everything that the client can get wrong.

    max_model_len   tokens that the engine takes, prompt and answer together
    """
    _check(chat, limits)
    check_limits(chat, limits, model.vocabulary.num_tokens)
    chat = in_words_of_tools(chat)
    return _prepared(chat, _tools(chat, limits), {}, model, limits, fresh, max_model_len)


def _tools(chat: ChatRequest, limits: ApiConfig) -> ToolUse:
    try:
        return tool_use(chat, limits)
    except RequestError as fault:
        raise in_words_of_functions(fault) if chat.functions else fault from None


def _prepared(
    chat: ChatRequest,
    tools: ToolUse,
    constraints: Constraints,
    model: TextModel,
    limits: ApiConfig,
    fresh: Fresh,
    max_model_len: int,
    num_prompts: int = 1,
) -> PreparedChat:
    """`constraints` are those that were made for other conversations with the same options."""
    given = token_prompt(chat, model)
    messages = conversation(chat.messages, limits)
    if given is None:
        prompt = chat_prompt(chat, messages, tools.shown, model, limits)
        check_text_fits(prompt, chat, model, max_model_len, param="messages")
        tokens = model.encode(prompt, add_special_tokens=bool(chat.add_special_tokens))
    else:
        prompt = model.tokenizer.decode(given, skip_special_tokens=False)
        tokens = given
    max_tokens, field = chat.wanted_tokens
    num_logprobs = chat.top_logprobs if chat.logprobs else None
    wanted = Wanted(
        max_tokens, field, chat.token_field or "messages", num_logprobs, chat.thinking_tokens, None, num_prompts
    )
    starts_text = not chat.continue_final_message
    parse = _parse_rules(chat, tools, prompt, model)
    place = parse.place if parse is not None else None  # all that a constraint has of its conversation
    if place not in constraints:
        constraints[place] = _constraint(chat, tools, parse, model, limits)
    generation = prepare(
        chat,
        tokens,
        model,
        fresh,
        wanted,
        max_model_len,
        starts_text=starts_text,
        parse=parse,
        constraint=constraints[place],
    )
    role = "assistant" if _opens_answer(chat) else messages[-1]["role"]
    echo = messages[-1]["content"] if chat.echo and messages[-1]["role"] == role else ""
    return PreparedChat(generation, role, echo, prompt, bool(chat.functions))


def prepare_chat_batch(
    batch: ChatBatchRequest, model: TextModel, limits: ApiConfig, fresh: Fresh, max_model_len: int
) -> list[PreparedChat]:
    """One prepared chat for each conversation. Raises RequestError."""
    prompt_logprobs = ("prompt_logprobs", batch.prompt_logprobs is not None)
    for field, wrong in (("n", batch.n != 1), ("stream", batch.stream), ("echo", batch.echo), prompt_logprobs):
        if wrong:
            raise RequestError(f"{field}: a batch has one choice for each conversation, sent at once", param=field)
    at_most("messages", len(batch.messages), limits.max_choices, "conversations")
    options = {name: value for name, value in batch if name != "messages"}
    first = ChatRequest.model_construct(**options, messages=batch.messages[0])
    _check(first, limits)
    check_limits(first, limits, model.vocabulary.num_tokens)
    first = in_words_of_tools(first)
    chats = [first.model_copy(update={"messages": messages}) for messages in batch.messages]
    tools = _tools(first, limits)
    constraints: Constraints = {}
    return [
        _prepared(chat, tools, constraints, model, limits, part_of(fresh, position), max_model_len, len(chats))
        for position, chat in enumerate(chats)
    ]


def chat_prompt(
    chat: ChatFields,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]],
    model: TextModel,
    limits: ApiConfig,
) -> str:
    """The conversation as the model reads it. Raises RequestError."""
    _check_template(chat, limits)
    template = model.template if chat.chat_template is None else model.with_template(chat.chat_template)
    if template is None:
        raise RequestError(f"model {model.name!r} has no chat template; use /v1/completions", param="model")
    if model.tool_call_parser == GENERIC:
        messages, tools = with_tools_in_text(messages, tools), []
    return template.render(
        messages,
        tools=tools or None,
        documents=chat.documents,
        add_generation_prompt=_opens_answer(chat),
        continue_final_message=chat.continue_final_message,
        **_template_kwargs(chat),
    )


def conversation(messages: Sequence[Message], limits: ApiConfig) -> list[dict[str, Any]]:
    at_most("messages", len(messages), limits.max_messages)
    return template_messages(messages)


def _template_kwargs(chat: ChatFields) -> dict[str, Any]:
    # templates differ in what they call it
    said = {"reasoning_effort": chat.effort, "enable_thinking": chat.thinks, "thinking": chat.thinks}
    return {name: value for name, value in said.items() if value is not None} | chat.chat_template_kwargs


def _constraint(
    chat: ChatRequest, tools: ToolUse, parse: ParseRules | None, model: TextModel, limits: ApiConfig
) -> Constraint | None:
    """What the answer must be, and whether it must fit into its tokens."""
    constraint = _form_or_calls(chat, tools, parse, model, limits)
    wants_fit = chat.structured_outputs is not None and chat.structured_outputs.fit
    if constraint is None or tools.forced is None or not wants_fit:
        return constraint
    return msgspec.structs.replace(constraint, fits=True)


def _form_or_calls(
    chat: ChatRequest, tools: ToolUse, parse: ParseRules | None, model: TextModel, limits: ApiConfig
) -> Constraint | None:
    """A call that is forced leaves no room for another form: response_format speaks of what is said beside calls."""
    outputs = chat.structured_outputs
    if tools.forced == "named" and outputs is not None and outputs.model_fields_set - {"fit"}:
        field = "structured_outputs"
        raise RequestError(f"{field}: tool_choice allows a call of its tool and nothing else; leave one out", field)
    form = constraint_of(chat, limits) if tools.forced is None else None
    if parse is not None and parse.is_harmony and (form is not None or tools.schemas):
        return _in_channels(parse, harmony_constraint(tools, model.vocabulary, form))
    if not tools.schemas:
        return form
    constraint = tool_constraint(tools, model.tool_call_parser, model.vocabulary, form)
    at_most("tools", constraint.num_bytes, limits.max_grammar_bytes, "bytes, as compiled")
    return constraint


def _in_channels(parse: ParseRules, constraint: Constraint) -> Constraint:
    if parse.place != "before":
        field = constraint.field
        raise RequestError(f"{field}: the answer must begin a message; leave out continue_final_message", field)
    return constraint


def _parse_rules(chat: ChatRequest, tools: ToolUse, prompt: str, model: TextModel) -> ParseRules | None:
    if model.reasoning_parser is None and not tools.schemas:
        return None
    place = model.reasoning_parser.place_after(prompt) if model.reasoning_parser is not None else "after"
    return ParseRules(
        think=model.reasoning_parser,
        place="after" if chat.continue_final_message and place == "before" else place,
        shows_thinking=chat.shows_thinking,
        keeps_markers=chat.merges_thinking,
        tools=model.tool_call_parser if tools.schemas else None,
        tool_schemas=tools.schemas,
        max_calls=tools.max_calls,
        forced=tools.forced,
    )


def _opens_answer(chat: ChatFields) -> bool:
    return not chat.continue_final_message if chat.add_generation_prompt is None else chat.add_generation_prompt


def _check(chat: ChatRequest, limits: ApiConfig) -> None:
    if chat.top_logprobs and not chat.logprobs:
        raise RequestError("top_logprobs: needs logprobs to be true", param="top_logprobs")
    at_most("top_logprobs", chat.top_logprobs, limits.max_logprobs)


def _check_template(chat: ChatFields, limits: ApiConfig) -> None:
    if chat.continue_final_message and chat.add_generation_prompt:
        raise RequestError(
            "continue_final_message: cannot be true together with add_generation_prompt", param="continue_final_message"
        )
    if chat.chat_template is not None and not limits.trust_request_chat_template:
        raise RequestError(
            "chat_template: this server does not run templates of clients (api.trust_request_chat_template)",
            param="chat_template",
        )
    if reserved := sorted(RESERVED & chat.chat_template_kwargs.keys()):
        raise RequestError(f"chat_template_kwargs: may not set {', '.join(reserved)}", param="chat_template_kwargs")
