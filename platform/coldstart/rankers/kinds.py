"""Kinds of rankers: the platform's own by name, a user's own as `module:Class`."""

import importlib
import os
import sys
from typing import Any

from coldstart.config import UserError
from coldstart.config.permission import PERMITTED, is_permitted
from coldstart.rankers.dcn_v2 import DcnV2
from coldstart.rankers.din import Din
from coldstart.rankers.din_dcn import DinDcn
from coldstart.rankers.interface import Ranker
from coldstart.rankers.transformer import Transformer

CLASSES: dict[str, type[Ranker]] = {"din": Din, "dcn_v2": DcnV2, "din_dcn": DinDcn, "transformer": Transformer}
"""The platform's own."""


def ranker_class(kind: str) -> type[Ranker]:
    """The class of a kind.

    Raises:
        UserError: unknown, not to be imported, or not what the user named.
    """
    if kind in CLASSES:
        return CLASSES[kind]
    if ":" not in kind:
        raise UserError(
            f"ranker kind '{kind}' is unknown; allowed: {', '.join(CLASSES)}, or module:Class of a ranker of your own"
        )
    if not is_permitted(kind):
        raise UserError(
            f"the ranker is of class {kind}, which is not the platform's own and is imported only where you name it; "
            f"if you trust it, set ranker.kind={kind} in the recipe (without a recipe: {PERMITTED}={kind})"
        )
    found: type[Ranker] = _imported(kind)
    return found


def _imported(kind: str) -> Any:
    module, _, name = kind.partition(":")
    if os.getcwd() not in sys.path:
        # A console script, unlike `python -m`, does not look where the user stands.
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"ranker kind {kind}: no module named '{error.name}' in this directory or in the installed packages"
        ) from error
    except AttributeError as error:
        raise UserError(f"ranker kind {kind}: module {module} has no '{name}'") from error
