"""The table of the methods, by the name that a recipe gives them."""

from collections.abc import Mapping
from importlib import import_module

from coldstart.config import UserError
from coldstart.config.recipe.method import METHOD_NAMES
from coldstart.methods.base import Method

METHODS: Mapping[str, Method] = {
    name: import_module(f"coldstart.methods.{name}.method").METHOD for name in METHOD_NAMES
}


def find_method(name: str) -> Method:
    """The method of a name.

    Raises:
        UserError: there is none; the message lists them.
    """
    if name not in METHODS:
        raise UserError(f"no method '{name}'; allowed: {', '.join(METHODS)}")
    return METHODS[name]
