"""POST /tokenize and /detokenize."""

from fastapi import APIRouter, Request, Response

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.openapi import request_body, responses
from serve_app.api.requests import DetokenizeRequest, TokenizeRequest
from serve_app.api.responses import DetokenizeAnswer, TokenizeAnswer
from serve_app.chat.adapter import template_options
from serve_app.chat.messages import neutral_messages
from serve_app.chat.tools import neutral_tool
from serve_app.model.messages import template_messages
from serve_app.model.text_model import TextModel
from serve_app.pipeline.parser import RequestParser
from serve_app.preparation.conversation import chat_prompt
from serve_app.preparation.generate_request import RequestContext
from serve_app.preparation.sampling import check_ids
from serve_app.request.limits import at_most

__all__ = ["token_router"]


def token_router(parser: RequestParser) -> APIRouter:
    router = APIRouter(tags=["tokens"])

    @router.post("/tokenize", responses=responses(TokenizeAnswer), openapi_extra=request_body(TokenizeRequest))
    async def tokenize(http: Request) -> Response:
        return _answer((await parser.parse(http, TokenizeRequest, _tokenize)).prepared)

    @router.post("/detokenize", responses=responses(DetokenizeAnswer), openapi_extra=request_body(DetokenizeRequest))
    async def detokenize(http: Request) -> Response:
        return _answer((await parser.parse(http, DetokenizeRequest, _detokenize)).prepared)

    return router


def _answer(document: bytes) -> Response:
    return Response(document, media_type="application/json")


# both return JSON, so that millions of tokens are serialized in a worker


def _tokenize(fields: TokenizeRequest, model: TextModel, limits: ApiConfig, context: RequestContext) -> bytes:
    if (fields.prompt is None) == (fields.messages is None):
        raise RequestError("prompt: send either a prompt or messages", param="prompt")
    if fields.messages is not None:
        at_most("messages", len(fields.messages), limits.max_messages)
        messages = template_messages(neutral_messages(fields.messages))
        tools = [neutral_tool(tool).definition for tool in fields.tools]
        text = chat_prompt(template_options(fields), messages, tools, model, limits)
        tokens = model.encode(text, add_special_tokens=bool(fields.add_special_tokens))
    else:
        tokens = model.encode(fields.prompt or "", add_special_tokens=fields.add_special_tokens is not False)
    strings = [model.tokenizer.id_to_token(token) or "" for token in tokens] if fields.return_token_strs else None
    answer = TokenizeAnswer(
        count=len(tokens), max_model_len=context.max_model_len, tokens=list(tokens), token_strs=strings
    )
    return answer.model_dump_json().encode()


def _detokenize(fields: DetokenizeRequest, model: TextModel, limits: ApiConfig, context: RequestContext) -> bytes:
    check_ids("tokens", fields.tokens, model.vocabulary.num_tokens)
    text = model.tokenizer.decode(fields.tokens, skip_special_tokens=False)
    return DetokenizeAnswer(prompt=text).model_dump_json().encode()
