"""Directories that commands write to: checked before the work starts."""

import os
from pathlib import Path

from coldstart.config.errors import UserError
from coldstart.config.recipe import Recipe


def is_writable(directory: Path) -> bool:
    """Whether files can be created in a directory, or the directory itself if it does not exist yet."""
    directory = directory.absolute()
    existing = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def check_writable(directory: Path, fix: str) -> None:
    """Checks that a command can write to a directory.

    Args:
        directory: It need not exist.
        fix: What the user can change.

    Raises:
        UserError: it is not writable.
    """
    if not is_writable(directory):
        raise UserError(f"{directory} is not writable; {fix}")


def check_run_dir(recipe: Recipe) -> None:
    """Checks that the run directory is writable.

    Raises:
        UserError: it is not.
    """
    check_writable(recipe.run_dir, "set paths.runs to a directory that is")
