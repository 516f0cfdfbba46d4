"""Picking up new and changed items from the catalogue."""

from pydantic import NonNegativeInt, PositiveInt

from coldstart.config.section import Section


class Refresh(Section):
    """Picking up new and changed items from the catalogue while a release is served."""

    updated_at: str | None = None
    """Column of the items table with the time of a row's last change, as `timestamp`. Rows that are not newer than the
    last pass are then not looked at; without it, every row of a file that changed is compared by what it shows."""
    slack_s: NonNegativeInt = 3600
    """How much later than its time a row may arrive in the table, s."""
    batch: PositiveInt = 256
    """Items that are read and stored together; what a kill costs at most, per actor."""
