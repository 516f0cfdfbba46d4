"""Settings of `refresh`, which publishes new and changed items of the catalog."""

from pydantic import NonNegativeInt, PositiveInt

from coldstart.config.section import Section


class Refresh(Section):
    """Publication of new and changed items of the catalog while a release is served."""

    updated_at: str | None = None
    """Column of the items table with the time of a row's last change, in the format of `timestamp`. With it, a refresh
    skips rows that are older than the last refresh; without it, it compares all rows of changed files."""
    allowed_lateness_s: NonNegativeInt = 3600
    """How long after its update time a row may arrive in the table, s."""
    batch: PositiveInt = 256
    """Items that an actor encodes and stores together; a killed refresh loses at most this many per actor."""
