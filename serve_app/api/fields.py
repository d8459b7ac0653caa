"""The base of wire models: null equals absent, unknown fields are ignored, nothing is coerced."""

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = ["Int", "Int64", "Items", "Number", "Text", "WireModel"]

T = TypeVar("T")


def _integral(value: Any) -> Any:
    """JSON has one kind of number: 16.0 is an integer too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_integral)]
Int64 = Annotated[int, BeforeValidator(_integral), Field(ge=-(2**63), le=2**63 - 1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
Items = Annotated[list[T], Field(fail_fast=True)]  # only the first error is reported: a list may have a million items


class WireModel(BaseModel):
    costly_fields: ClassVar[tuple[str, ...]] = ()  # of a body, that cost more than their size (requests.COSTLY_FIELDS)

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value
