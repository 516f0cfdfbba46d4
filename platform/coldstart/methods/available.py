"""The table of the methods, by the name that a recipe gives them."""

from collections.abc import Mapping
from importlib import import_module

from coldstart.config.recipe.method import METHOD_NAMES, check_method_name
from coldstart.methods.base import Method

METHODS: Mapping[str, Method] = {
    name: import_module(f"coldstart.methods.{name}.method").METHOD for name in METHOD_NAMES
}


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        UserError: there is none; the message suggests the nearest.
    """
    check_method_name(name, METHODS)
    return METHODS[name]
