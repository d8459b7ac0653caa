"""POST /tokenize and /detokenize: what a model reads."""

from fastapi import APIRouter, Request, Response

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.answers import DetokenizeAnswer, TokenizeAnswer
from serve_app.api.requests import DetokenizeRequest, TokenizeRequest
from serve_app.chat.request import chat_prompt, conversation
from serve_app.generation.request import Fresh
from serve_app.generation.sampling import check_ids
from serve_app.http.documents import request_body, responses
from serve_app.http.intake import Intake
from serve_app.model.text_model import TextModel

__all__ = ["token_router"]


def token_router(intake: Intake) -> APIRouter:
    router = APIRouter(tags=["tokens"])

    @router.post("/tokenize", responses=responses(TokenizeAnswer), openapi_extra=request_body(TokenizeRequest))
    async def tokenize(http: Request) -> Response:
        return _answer((await intake.take(http, TokenizeRequest, _tokenize)).prepared)

    @router.post("/detokenize", responses=responses(DetokenizeAnswer), openapi_extra=request_body(DetokenizeRequest))
    async def detokenize(http: Request) -> Response:
        return _answer((await intake.take(http, DetokenizeRequest, _detokenize)).prepared)

    return router


def _answer(document: bytes) -> Response:
    return Response(document, media_type="application/json")


# both give JSON: of millions of tokens it is written where they are made, in a worker


def _tokenize(fields: TokenizeRequest, model: TextModel, limits: ApiConfig, fresh: Fresh, max_model_len: int) -> bytes:
    if (fields.prompt is None) == (fields.messages is None):
        raise RequestError("prompt: send either a prompt or messages", param="prompt")
    if fields.messages is not None:
        messages = conversation(fields.messages, limits)
        tools = [tool.shown() for tool in fields.tools]
        text = chat_prompt(fields, messages, tools, model, limits)
        tokens = model.encode(text, add_special_tokens=bool(fields.add_special_tokens))
    else:
        tokens = model.encode(fields.prompt or "", add_special_tokens=fields.add_special_tokens is not False)
    strings = [model.tokenizer.id_to_token(token) or "" for token in tokens] if fields.return_token_strs else None
    answer = TokenizeAnswer(count=len(tokens), max_model_len=max_model_len, tokens=list(tokens), token_strs=strings)
    return answer.model_dump_json().encode()


def _detokenize(
    fields: DetokenizeRequest, model: TextModel, limits: ApiConfig, fresh: Fresh, max_model_len: int
) -> bytes:
    check_ids("tokens", fields.tokens, model.vocabulary.num_tokens)
    text = model.tokenizer.decode(fields.tokens, skip_special_tokens=False)
    return DetokenizeAnswer(prompt=text).model_dump_json().encode()
