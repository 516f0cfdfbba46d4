"""The ranker class of a user that may be imported: only the class that the user named, never one named by a file."""

import os

ALLOWED_IMPORT = "COLDSTART_RANKER"
"""Environment variable with `module:Class`; child processes and Ray workers inherit it."""


def allow_import(name: str) -> None:
    """Allows the import of a class that the user named in a recipe or on the command line.

    A name without a colon is a ranker of the platform and needs no permission.
    """
    if ":" in name:
        os.environ[ALLOWED_IMPORT] = name


def is_import_allowed(name: str) -> bool:
    """Whether the user named this class."""
    return os.environ.get(ALLOWED_IMPORT) == name
