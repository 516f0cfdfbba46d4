"""The settings of co-click pairs, for methods that learn from items that the same users click."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from coldstart.config.section import Section

DAY = 86_400


class Pairs(Section):
    """Which items form a pair, and how the targets of a trigger are chosen."""

    window_s: PositiveInt = 7 * DAY
    """Longest time between two clicks of a user that form a pair, in seconds."""
    max_per_trigger: PositiveInt = 10
    """Targets kept per trigger: those with the highest scores."""
    max_clicks_per_user: PositiveInt = 200
    """Last train clicks of a user that form pairs; work and memory grow with its square."""
    score: Literal["lift", "swing"] = "lift"
    """lift: probability of a co-click over that of independent clicks. swing: counts pairs of users who clicked both
    items, less if these users have more in common; it resists noise, and costs more."""
    lift_smoothing: PositiveFloat = 10.0
    """Users who are added to the users of each item in `lift`, so that items with few clicks do not win by chance."""
    swing_alpha: PositiveFloat = 1.0
    """Added to the number of items that two users have in common in `swing`."""
