"""Which class of the user's own may be imported: only one that the user named, whatever a file says."""

import os

PERMITTED = "COLDSTART_RANKER"
"""Environment variable with a `module:Class`; child processes and Ray workers inherit it."""


def permit(name: str) -> None:
    """Notes that the user named a class, in a recipe or on the command line; other names need no permission."""
    if ":" in name:
        os.environ[PERMITTED] = name


def is_permitted(name: str) -> bool:
    """Whether the user named this class."""
    return os.environ.get(PERMITTED) == name
