"""Base of every recipe section: strict, frozen, and helpful about typing errors."""

from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know and suggests the nearest one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    near = get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                    hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(sorted(cls.model_fields))}"
                    raise ValueError(f"unknown key '{key}': {hint}")
        return values
