"""GET /v1/models and /v1/models/{id}."""

from fastapi import APIRouter

from serve_app.api.answers import ModelCard, ModelList
from serve_app.http.documents import responses
from serve_app.model.registry import Registry

__all__ = ["model_router"]


def model_router(registry: Registry) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/models/", include_in_schema=False)  # or it would be the model without a name
    @router.get("/models", summary="List the models", responses=responses(ModelList))
    async def list_models() -> ModelList:
        return ModelList(data=registry.cards())

    @router.get("/models/{model:path}", summary="Show one model", responses=responses(ModelCard))
    async def show_model(model: str) -> ModelCard:
        return registry.card(model)

    return router
