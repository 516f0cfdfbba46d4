"""The recipe section `method`: one set of settings per method, chosen by `method.name`."""

from functools import reduce
from importlib import import_module
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from coldstart.config.section import Section

if TYPE_CHECKING:
    from coldstart.config.recipe import Recipe

METHOD_NAMES = ("idproxy",)
"""Every method: its package is `coldstart.methods.<name>`. The first is the default."""


class MethodSettings(Section):
    """Settings of one method, the base class of every `methods/<name>/config.py`."""

    name: str

    stages: ClassVar[tuple[str, ...]] = ()
    """The stages that the method may have; which of them it has is up to the recipe."""
    variants: ClassVar[dict[str, str]] = {}
    """Variant of the evaluation -> description, besides those that every method has."""

    def check(self, recipe: "Recipe") -> None:
        """Compares these settings with the other sections.

        Raises:
            ValueError: they do not fit together.
        """


SETTINGS: dict[str, Any] = {name: import_module(f"coldstart.methods.{name}.config").Settings for name in METHOD_NAMES}
"""Method -> its settings."""

if TYPE_CHECKING:
    AnyMethod = Any
elif len(SETTINGS) > 1:
    AnyMethod = Annotated[reduce(or_, SETTINGS.values()), Field(discriminator="name")]
else:
    (AnyMethod,) = SETTINGS.values()
Settings = TypeVar("Settings", bound=MethodSettings)


def settings_of(recipe: "Recipe", kind: type[Settings]) -> Settings:
    """The method's settings, as that method's class.

    Raises:
        TypeError: the recipe names another method.
    """
    if not isinstance(recipe.method, kind):
        raise TypeError(
            f"the recipe's method is {recipe.method.name}, but {kind.__module__} was asked for its settings"
        )
    return recipe.method


def add_default_name(values: Any) -> Any:
    """A section `method` without a name is of the default method."""
    return {"name": METHOD_NAMES[0], **values} if isinstance(values, dict) else values
