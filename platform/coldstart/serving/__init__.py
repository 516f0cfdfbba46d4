"""Serving: one Ray Serve application that ranks known and brand-new items with a release from the registry."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coldstart.serving.application import check_port, deploy, shutdown

__all__ = ["check_port", "deploy", "shutdown"]


def __getattr__(name: str) -> Any:
    # Every replica imports this package; loading the whole application would cost each of them the MLLM stack.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from coldstart.serving import application

    return getattr(application, name)
