"""Serving: a Ray Serve application that ranks known and brand-new items with a release from the registry."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coldstart.serving.application import GatewayInputs, check_port, deploy, shutdown

__all__ = ["GatewayInputs", "check_port", "deploy", "shutdown"]


def __getattr__(name: str) -> Any:
    # Every replica imports this package; importing the application here would load the MLLM stack in each of them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from coldstart.serving import application

    return getattr(application, name)
