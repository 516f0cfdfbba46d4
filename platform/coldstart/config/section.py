"""Base class of all recipe sections: frozen, and strict about unknown keys."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, lt=1)]


def _expand(value: Any) -> Any:
    """Replaces `~` and environment variables as a shell would, and refuses what would become an odd file name."""
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text):
        raise ValueError(
            f"'{text}' is a {scheme[1]} address, but this setting takes a path on a file system; mount the storage, or "
            "copy the files"
        )
    expanded = os.path.expanduser(os.path.expandvars(text))
    if missing := re.search(r"\$\{?\w+\}?", expanded):
        raise ValueError(f"'{text}' names the environment variable {missing[0]}, which is not set")
    if expanded.startswith("~"):
        raise ValueError(f"'{text}' names the home directory of a user who does not exist; write the path out")
    return expanded  # Text, not a path: from JSON, pydantic takes nothing else.


LocalPath = Annotated[Path, BeforeValidator(_expand)]
"""A path on a file system; `~` and `$VARIABLE` are expanded."""


def _check_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError(
            "it names files and MLflow models: 1 to 64 letters a-z, digits, dots, hyphens and underscores are allowed, "
            "a letter or a digit first"
        )
    return value


Name = Annotated[str, AfterValidator(_check_name)]
"""A name that is safe as a file name and as the name of a registered model."""


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
