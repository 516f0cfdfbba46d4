"""The kinds of registered models, over all methods."""

from coldstart.config import UserError
from coldstart.methods.available import METHODS, find_method
from coldstart.methods.base import SCORER, ArtifactKind, Method


def registered_kinds() -> tuple[str, ...]:
    """Names of all kinds, in the order of their lineage; the scorer is the last."""
    upstream = dict.fromkeys(kind for method in METHODS.values() for kind in method.upstream)
    return (*upstream, SCORER)


def find_kind(method: str, kind: str) -> ArtifactKind:
    """A kind of a method.

    Raises:
        UserError: there is no such method, or it has no such kind.
    """
    kinds = {one.name: one for one in find_method(method).kinds}
    if kind not in kinds:
        raise UserError(f"method '{method}' registers no {kind}; allowed: {', '.join(kinds)}")
    return kinds[kind]


def first_method_with(kind: str) -> Method:
    """The first method that registers a kind: for a model that is registered before any method uses it.

    Raises:
        UserError: there is none.
    """
    for method in METHODS.values():
        if any(one.name == kind for one in method.kinds):
            return method
    raise UserError(f"no method registers a {kind}; allowed: {', '.join(registered_kinds())}")
