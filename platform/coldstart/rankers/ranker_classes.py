"""Ranker classes by `ranker.kind`: built-in ones by name, custom ones as `module:Class`."""

import importlib
import os
import sys
from typing import Any

from coldstart.config import UserError
from coldstart.config.import_allowlist import ALLOWED_IMPORT, is_import_allowed
from coldstart.rankers.dcn_v2 import DcnV2
from coldstart.rankers.din import Din
from coldstart.rankers.din_dcn import DinDcn
from coldstart.rankers.interface import Ranker
from coldstart.rankers.transformer import Transformer

RANKERS: dict[str, type[Ranker]] = {"din": Din, "dcn_v2": DcnV2, "din_dcn": DinDcn, "transformer": Transformer}
"""Built-in rankers."""


def ranker_class(kind: str) -> type[Ranker]:
    """The class of a `ranker.kind`.

    Raises:
        UserError: the kind is unknown, its import is not allowed, or the module or class does not exist.
    """
    if kind in RANKERS:
        return RANKERS[kind]
    if ":" not in kind:
        raise UserError(
            f"ranker.kind '{kind}' is unknown; allowed: {', '.join(RANKERS)}, or module:Class for a custom ranker"
        )
    if not is_import_allowed(kind):
        raise UserError(
            f"ranker class {kind} is not built in, and custom code is imported only if you name it; "
            f"if you trust it, set ranker.kind={kind} in the recipe (without a recipe: {ALLOWED_IMPORT}={kind})"
        )
    found: type[Ranker] = _imported(kind)
    return found


def _imported(kind: str) -> Any:
    module, _, name = kind.partition(":")
    if os.getcwd() not in sys.path:
        # A console script, unlike `python -m`, does not search the current directory.
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"ranker.kind {kind}: no module '{error.name}' in this directory or in the installed packages"
        ) from error
    except AttributeError as error:
        raise UserError(f"ranker.kind {kind}: module {module} has no '{name}'") from error
