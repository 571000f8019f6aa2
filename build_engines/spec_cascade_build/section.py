"""What every section of a pair file shares."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1, description="an integer >= 1")]


class Section(BaseModel):
    """Unknown keys are errors, and no value is coerced: `"4"` is no integer and `true` is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def refusal(field: str, value: Any, allowed: str) -> PydanticCustomError:
    """A rule of a pair file that pydantic does not know; ``field`` is relative to the section that raises it."""
    return PydanticCustomError("pair", "{allowed}", {"field": field, "value": value, "allowed": allowed})
