"""GET /v1/models in Anthropic's shape, for requests with its headers."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from serve_app.model.registry import ServedModel

__all__ = ["AnthropicModel", "AnthropicModelList", "anthropic_model", "anthropic_models"]


class AnthropicModel(BaseModel):
    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str  # RFC 3339
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int
    max_tokens: int


class AnthropicModelList(BaseModel):
    data: list[AnthropicModel]
    has_more: bool = False
    first_id: str | None
    last_id: str | None


def anthropic_models(models: Sequence[ServedModel]) -> AnthropicModelList:
    """All models on one page."""
    ids = [model.id for model in models]
    data = [anthropic_model(model) for model in models]
    return AnthropicModelList(data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)


def anthropic_model(model: ServedModel) -> AnthropicModel:
    return AnthropicModel(
        id=model.id,
        display_name=model.id,
        created_at=datetime.fromtimestamp(model.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=model.max_model_len,
        max_tokens=model.max_model_len,
    )
