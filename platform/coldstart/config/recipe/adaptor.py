"""Fine alignment: the adaptor, the joint ranker, and their training."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section, Share


class AdaptorParts(Section):
    """What the adaptor has beside its MLP; each part can be left out to see what it is worth."""

    coarse: bool = True
    """Whether the coarse proxy is carried into the fine one, and read by the gate."""
    gate: bool = True
    """Whether the MLP's part is gated, so that it does not repeat the coarse proxy; without, it is added whole."""
    scale: bool = True
    """Whether the length of fine proxies is learned by clicks; without, it stays that of mature ID rows."""


class Joint(Section):
    """The joint ranker: slots `id`, `coarse` and `fine` side by side, the ranker trained with them (IDProxy, 3.3)."""

    reuse: bool = True
    """Whether proxies go through the ranker's own attention and crossing, like an ID row (the paper's v5), or are plain
    features of its last layers (v4)."""
    id_dropout: Share = 0.3
    """Share of items per step whose ID is hidden, as it is for a cold item: what cold serving asks for must happen
    often in training, to whole items, since a row with its ID tells what the proxy of the same item should have."""
    epochs: PositiveInt = 5
    ranker_rate: PositiveFloat = 5e-4
    """Learning rate of the ranker's own weights, which start trained; new parts have `fine.learning_rate`."""


class Fine(Section):
    """Fine alignment: the adaptor, trained by click loss through the ranker (IDProxy, stage 2)."""

    mode: Literal["frozen", "joint"] = "frozen"
    """frozen: the ranker stays as it is, byte for byte. joint: a second ranker is made beside it, which see."""
    parts: AdaptorParts = AdaptorParts()
    joint: Joint = Joint()
    hidden: NonNegativeInt = 256
    """Units of the adaptor's MLP over the layer states; 0 makes it linear."""
    epochs: PositiveInt = 6
    patience: PositiveInt = 2
    users_per_step: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    dropout: Share = 0.3
    evidence: PositiveFloat = 300.0
    """Train events after which an item's weight as a whole has reached half of its limit. Small: items count alike,
    many or few their events, since what content does not show is the same in all of them; the popular are not the rule
    then, but neither is their rate of clicks, which is why proxies are levelled on valid rows afterwards. Large: events
    count alike."""
    hand_over: NonNegativeInt | Literal["curve"] = "curve"
    """Train events by which an item's ID row has wholly taken over from its proxy where it is served; 0 is at its first
    event. `curve` takes what did best on validation rows of warming items."""

    @model_validator(mode="after")
    def _gate_has_something_to_compare(self) -> Self:
        if self.parts.gate and not self.parts.coarse:
            raise ValueError(
                "fine.parts.gate reads the coarse proxy, which fine.parts.coarse leaves out; set gate: false"
            )
        return self
