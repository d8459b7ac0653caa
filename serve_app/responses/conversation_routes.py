"""Routes of /v1/conversations: items that responses begin with and are added to."""

import asyncio
import secrets
import time
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from configs.schema import ApiConfig
from serve_app.api.openapi import request_body, responses
from serve_app.api.validation import max_items, validate
from serve_app.pipeline.auth import Authenticator
from serve_app.request.limits import at_most
from serve_app.responses.items import neutral_messages, with_ids
from serve_app.responses.kept import Conversation, KeptResponses
from serve_app.responses.pages import LIST_PARAMETERS, page_of
from serve_app.responses.requests import ConversationItemsRequest, ConversationRequest, InputItem, MetadataRequest
from serve_app.responses.shapes import ConversationBody, DeletedBody, ItemBody, ItemListBody
from serve_app.transport.body import SMALL_BYTES, parse_object, read_body
from serve_app.transport.errors import NotFound

__all__ = ["conversation_router"]

M = TypeVar("M", bound=BaseModel)


def conversation_router(kept: KeptResponses, auth: Authenticator, limits: ApiConfig) -> APIRouter:
    router = APIRouter(prefix="/conversations", tags=["conversations"])

    async def read(http: Request, kind: type[M]) -> M:
        data = await read_body(http, limits.max_body_bytes)
        if len(data) <= SMALL_BYTES:
            return _validated(data, kind, limits)
        return await asyncio.to_thread(_validated, data, kind, limits)

    @router.post(
        "",
        response_model=None,
        summary="Begin a conversation",
        responses=responses(ConversationBody),
        openapi_extra=request_body(ConversationRequest),
    )
    async def create(http: Request) -> Response:
        tenant, fields = auth.tenant(http), await read(http, ConversationRequest)
        id_ = f"conv_{secrets.token_hex(24)}"
        items = msgspec.json.encode(_dumped(fields.items))
        begun = Conversation(id=id_, created_at=int(time.time()), metadata=fields.metadata, items=items)
        await kept.put_conversation(tenant, begun)
        return _json(_shown(begun))

    @router.get(
        "/{conversation_id}",
        response_model=None,
        summary="Show a conversation",
        responses=responses(ConversationBody),
    )
    async def show(conversation_id: str, http: Request) -> Response:
        return _json(_shown(await kept.conversation(auth.tenant(http), conversation_id)))

    @router.post(
        "/{conversation_id}",
        response_model=None,
        summary="Change a conversation's metadata",
        responses=responses(ConversationBody),
        openapi_extra=request_body(MetadataRequest),
    )
    async def update(conversation_id: str, http: Request) -> Response:
        tenant, fields = auth.tenant(http), await read(http, MetadataRequest)

        def change(conversation: Conversation) -> None:
            conversation.metadata = fields.metadata

        return _json(_shown(await kept.change_conversation(tenant, conversation_id, change)))

    @router.delete(
        "/{conversation_id}",
        response_model=None,
        summary="Delete a conversation",
        responses=responses(DeletedBody),
    )
    async def delete(conversation_id: str, http: Request) -> Response:
        if not await kept.delete_conversation(auth.tenant(http), conversation_id):
            raise NotFound(f"there is no conversation {conversation_id[:256]!r}", param="conversation_id")
        return _json({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    @router.post(
        "/{conversation_id}/items",
        response_model=None,
        summary="Add items to a conversation",
        responses=responses(ItemListBody),
        openapi_extra=request_body(ConversationItemsRequest),
    )
    async def add_items(conversation_id: str, http: Request) -> Response:
        tenant, fields = auth.tenant(http), await read(http, ConversationItemsRequest)
        await kept.conversation(tenant, conversation_id)
        items = _dumped(fields.items)
        await kept.extend_conversation(tenant, conversation_id, msgspec.json.encode(items))
        ids = {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
        return _json({"object": "list", "data": items, **ids, "has_more": False})

    @router.get(
        "/{conversation_id}/items",
        response_model=None,
        summary="List a conversation's items",
        responses=responses(ItemListBody),
        openapi_extra=LIST_PARAMETERS,
    )
    async def list_items(conversation_id: str, http: Request) -> Response:
        found = await kept.conversation(auth.tenant(http), conversation_id)
        return _json(page_of(http, msgspec.json.decode(found.items)))

    @router.get(
        "/{conversation_id}/items/{item_id}",
        response_model=None,
        summary="Show an item of a conversation",
        responses=responses(ItemBody),
    )
    async def show_item(conversation_id: str, item_id: str, http: Request) -> Response:
        found = await kept.conversation(auth.tenant(http), conversation_id)
        return _json(_item(found, item_id))

    @router.delete(
        "/{conversation_id}/items/{item_id}",
        response_model=None,
        summary="Delete an item of a conversation",
        responses=responses(ConversationBody),
    )
    async def delete_item(conversation_id: str, item_id: str, http: Request) -> Response:

        def change(conversation: Conversation) -> None:
            gone = _item(conversation, item_id)
            items = [item for item in msgspec.json.decode(conversation.items) if item != gone]
            conversation.items = msgspec.json.encode(items)

        return _json(_shown(await kept.change_conversation(auth.tenant(http), conversation_id, change)))

    return router


def _validated(data: bytes, kind: type[M], limits: ApiConfig) -> M:
    """Raises RequestError, also for items that no response could begin with."""
    fields = validate(kind, parse_object(data) if data.strip() else {}, max_items(limits))
    items = getattr(fields, "items", [])
    at_most("items", len(items), limits.max_messages)
    neutral_messages(items, b"\0" * 32, "items")
    return fields


def _dumped(items: list[InputItem]) -> list[dict[str, Any]]:
    return with_ids([item.model_dump(exclude_none=True) for item in items])


def _item(conversation: Conversation, id_: str) -> dict[str, Any]:
    """Raises NotFound."""
    items: list[dict[str, Any]] = msgspec.json.decode(conversation.items)
    for item in items:
        if item["id"] == id_:
            return item
    raise NotFound(f"there is no item {id_[:256]!r}", param="item_id")


def _shown(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
    }


def _json(body: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
