"""Imports Lance where it is needed: the import takes half a second and starts a thread pool."""

from types import ModuleType

from coldstart.config import runtime_env


def import_lance() -> ModuleType:
    """Returns the library, with its warnings silenced."""
    runtime_env.set_lance_defaults()
    import lance

    return lance  # type: ignore[no-any-return, unused-ignore]
