"""The recipe section `method`: one set of settings per method, chosen by `method.name`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import reduce
from importlib import import_module
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from coldstart.config.errors import UserError
from coldstart.config.section import Section

if TYPE_CHECKING:
    from coldstart.config.recipe import Recipe

METHOD_NAMES = ("idproxy", "saviorrec", "mim", "baselines")
"""Every method: its package is `coldstart.methods.<name>`. The first is the default."""


RELEASE = "release"
"""The variant of the evaluation that every method has: what is served."""


@dataclass(frozen=True)
class VariantInfo:
    """How reports describe a variant of the evaluation, and what they compare it with.

    Attributes:
        description: What it is, for people.
        color: Of its bars and lines, such as `#4a7bd0`.
        compared_with: Variants whose difference to this one is tested.
    """

    description: str
    color: str
    compared_with: tuple[str, ...] = ("oov",)


@dataclass(frozen=True)
class ContenderInfo:
    """One configuration of a method that `coldstart run compare` trains, beside IDProxy and the baselines.

    Attributes:
        description: What it is, for people.
        changes: Settings that differ from the recipe's, by their dotted key in the section `method`.
        grid: Settings to try, by the same keys.
        tuned_as: Contender whose chosen setting it takes instead of trying a grid.
    """

    description: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[Mapping[str, Any], ...] = ({},)
    tuned_as: str | None = None


class MethodSettings(Section):
    """Settings of one method, the base class of every `methods/<name>/config.py`."""

    name: str

    stages: ClassVar[tuple[str, ...]] = ()
    """The stages that the method may have; which of them it has is up to the recipe."""
    variants: ClassVar[Mapping[str, VariantInfo]] = {}
    """Variants of the evaluation besides those that every method has."""
    headline: ClassVar[str] = RELEASE
    """The variant that the report is about: its gains are explained, and it is compared with `oov`."""
    contenders: ClassVar[Mapping[str, ContenderInfo]] = {}
    """Configurations for a comparison; the one that has the method's name always takes part."""
    modalities: ClassVar[tuple[Literal["image", "text"], ...]] = ()
    """Modalities without which the method cannot work; it gets them only if dataset and recipe have them."""

    @property
    def required_modalities(self) -> tuple[Literal["image", "text"], ...]:
        """Those of `modalities` that it cannot work without with these settings."""
        return self.modalities

    @property
    def uses_mllm(self) -> bool:
        """Whether the recipe section `encoder` matters with these settings."""
        return True

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
        UserError: the recipe names another method.
    """
    if not isinstance(recipe.method, kind):
        wanted = kind.model_fields["name"].default
        raise UserError(
            f"method.name is {recipe.method.name}, but this command works with {wanted} only; set method.name: {wanted}"
        )
    return recipe.method


def add_default_name(values: Any) -> Any:
    """A section `method` without a name is of the default method.

    Raises:
        ValueError: there is no method of that name; the message suggests the nearest.
    """
    if not isinstance(values, dict):
        return values
    named = {"name": METHOD_NAMES[0], **values}
    check_method_name(named["name"], METHOD_NAMES)
    return named


def add_names(values: Any) -> Any:
    """Settings by the name of their method; each gets that name.

    Raises:
        ValueError: there is no method of that name; the message suggests the nearest.
    """
    if not isinstance(values, dict) or not all(isinstance(each, dict) for each in values.values()):
        return values
    return {name: add_default_name({"name": name, **each}) for name, each in values.items()}


def check_method_name(name: Any, allowed: Collection[str]) -> None:
    """Checks that a name is that of a method.

    Raises:
        UserError: there is none; the message suggests the nearest.
    """
    if name not in allowed:
        near = get_close_matches(str(name), allowed, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"no method '{name}'; {hint}allowed: {', '.join(allowed)}")
