"""Base class of all recipe sections: frozen, and strict about unknown keys."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, lt=1)]


class UnknownKeyError(ValueError):
    """A section has a key that it does not define; the message suggests the nearest one.

    Attributes:
        key: The unknown key.
    """

    def __init__(self, key: str, allowed: Iterable[str]) -> None:
        self.key = key
        names = sorted(allowed)
        near = get_close_matches(key, names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(names)}"
        super().__init__(f"unknown key '{key}': {hint}")


class Section(BaseModel):
    """A frozen group of settings. An unknown key is an error that suggests the nearest one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise UnknownKeyError(str(key), cls.model_fields)
        return values
