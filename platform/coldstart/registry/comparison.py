"""A candidate and the champion on the same rows: the paired difference of a figure, with an interval."""

from dataclasses import dataclass

from coldstart.config.recipe import Gate
from coldstart.registry.registry import Registry


@dataclass(frozen=True)
class Paired:
    """Two versions on the same rows.

    Attributes:
        figure: The candidate's.
        champion: The champion's.
        low: Lower end of the interval of the difference, candidate less champion.
        high: Its upper end.
        rows: Rows both were scored on.
    """

    figure: float
    champion: float
    low: float
    high: float
    rows: int


def compare(registry: Registry, candidate: int, champion: int, gate: Gate) -> Paired | None:
    """Compares two adaptor versions on the rows both were scored on; `None` when there are none in the registry."""
    return None
