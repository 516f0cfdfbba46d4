"""The synthetic catalog: its size, and what clicks depend on."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section, Share

UnitInterval = Annotated[float, Field(ge=0, le=1)]

REGIMES: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "sparse": {
        "items": 12_000,
        "users": 800,
        "events": 24_000,
        "max_events_per_item": 3,
        "request_size": 6,
        "logit_std": 3.0,
        "personalization_share": 1.0,
        "unobserved_share": 0.0,
    },
    "visual": {
        "items": 6000,
        "users": 1500,
        "events": 150_000,
        "request_size": 10,
        "logit_std": 2.5,
        "personalization_share": 0.2,
        "image_share": 0.0,
        "look_share": 0.6,
        "unobserved_share": 0.05,
    },
    "drift": {"personalization_share": 0.35, "cluster_share": 0.4, "unobserved_share": 0.15, "drift_at": 0.6},
}
"""Regime -> the defaults that it replaces."""


class Generated(Section):
    """The synthetic catalog (`coldstart generate`): a simulated content platform with known click probabilities.

    The shares are fractions of the variance of the click log-odds; what they leave is an item effect that content
    shows.
    """

    regime: Literal["dense", "sparse", "visual", "drift"] = "dense"
    """A named set of defaults for the settings below; a setting that is given has priority. `dense`: many events per
    item. `sparse`: at most three events per item and no item effect. `visual`: interest in what only images show, of
    which ID rows learn less than of common preferences. `drift`: the item effect of content clusters changes."""
    items: PositiveInt = 4000
    users: PositiveInt = 2000
    events: PositiveInt = 400_000
    weeks: PositiveInt = 8
    """Simulated period; items are published throughout."""
    max_events_per_item: PositiveInt | None = None
    """Upper limit for the events of an item. None: no limit."""
    request_size: PositiveInt = 1
    """Items that a user sees at the same time. Rows of one request differ in their item only; with few rows per user,
    GAUC over requests of one item each measures the user's state more than the items."""
    image_size: PositiveInt = 64
    """Pixels per side of an image."""
    missing_image: Share = 0.05
    """Share of items without an image."""
    missing_text: Share = 0.4
    """Share of items without a text; every item has a title."""
    content_quality: UnitInterval = 1.0
    """Share of an item's traits that its content shows; image and text show a random level of the others."""
    logit_std: PositiveFloat = 2.0
    """Standard deviation of the click log-odds between items."""
    personalization_share: UnitInterval = 0.5
    """Personalization that users have in common: preferences for traits that few dimensions describe."""
    look_share: UnitInterval = 0.0
    """Personalization that users do not have in common: each user's own preference for every look (hue and shape). It
    has as many dimensions as looks, so ID rows need more events to learn it; they do learn a part."""
    cluster_share: UnitInterval = 0.0
    """An item effect of content clusters (topic and tone)."""
    drift_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of the simulated period after which the effects of all clusters are others. None: they stay."""
    unobserved_share: UnitInterval = 0.25
    """An item effect that content does not show."""
    image_share: UnitInterval = 0.5
    """Fraction of the common personalization and of the shown item effect that is due to the image's traits; the rest
    is due to those of the text."""

    @property
    def shown_share(self) -> float:
        """The item effect that content shows."""
        rest = 1 - self.personalization_share - self.unobserved_share - self.look_share - self.cluster_share
        return max(rest, 0.0)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_regime(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {**REGIMES.get(str(values.get("regime")), {}), **values}

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        names = ("personalization_share", "look_share", "cluster_share", "unobserved_share")
        if sum(getattr(self, name) for name in names) > 1 + 1e-9:
            given = " + ".join(f"{name} {getattr(self, name):g}" for name in names if getattr(self, name))
            raise ValueError(f"{given} exceeds 1; lower one of them")
        if self.drift_at is not None and not self.cluster_share:
            raise ValueError(
                f"drift_at {self.drift_at:g} has no effect with cluster_share 0; set cluster_share above 0 or "
                "drift_at: null"
            )
        return self

    @model_validator(mode="after")
    def _check_limit(self) -> Self:
        limit = self.max_events_per_item
        if limit is not None and self.events > limit * self.items:
            raise ValueError(
                f"events {self.events} is more than items {self.items} x max_events_per_item {limit}; lower events, or "
                "raise one of the others"
            )
        return self
