"""GET /v1/models and /v1/models/{id}, in OpenAI's shape or in Anthropic's."""

from fastapi import APIRouter, Request

from serve_app.api.openapi import responses
from serve_app.api.responses import ModelCard, ModelList
from serve_app.messages.errors import is_anthropic
from serve_app.messages.models import AnthropicModel, AnthropicModelList, anthropic_model, anthropic_models
from serve_app.model.registry import Registry, ServedModel

__all__ = ["model_router"]


def model_router(registry: Registry) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/models/", include_in_schema=False)  # else it would be the model with an empty name
    @router.get("/models", summary="List the models", responses=responses(ModelList))
    async def list_models(http: Request) -> ModelList | AnthropicModelList:
        if is_anthropic(http):
            return anthropic_models(registry.all())
        return ModelList(data=[_card(model) for model in registry.all()])

    @router.get("/models/{model:path}", summary="Show one model", responses=responses(ModelCard))
    async def show_model(model: str, http: Request) -> ModelCard | AnthropicModel:
        found = registry.find(model)
        return anthropic_model(found) if is_anthropic(http) else _card(found)

    return router


def _card(model: ServedModel) -> ModelCard:
    return ModelCard(id=model.id, created=model.created, root=model.name, max_model_len=model.max_model_len)
