"""Fine alignment: adaptor, joint ranker, and their training."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section, Share


class AdaptorAblation(Section):
    """Parts of the adaptor to leave out, to measure what each is worth."""

    coarse: bool = False
    """Leaves out the coarse proxy, as a summand of the fine proxy and as an input of the gate."""
    gate: bool = False
    """Adds the MLP's output without the gate, which keeps it from repeating the coarse proxy."""
    scale: bool = False
    """Keeps the length of fine proxies at that of mature ID rows instead of learning it by clicks."""


class Joint(Section):
    """The joint ranker: ID, coarse and fine proxies as inputs of a ranker trained with them (IDProxy, section 3.3)."""

    structure_reuse: bool = True
    """Whether proxies pass through the ranker's own attention and crossing, like an ID row (v5 in the paper), or are
    plain features of its last layers (v4)."""
    id_dropout: Share = 0.3
    """Share of items per step whose ID is dropped, so that training contains items without an ID, as in serving. An
    item's ID is dropped from all rows of a step, because a row with the ID would learn what the proxy should learn."""
    epochs: PositiveInt = 5
    ranker_lr: PositiveFloat = 5e-4
    """Learning rate of the ranker's pretrained weights; new weights use `method.fine.learning_rate`."""


class Fine(Section):
    """Fine alignment: the adaptor, trained by the click loss through the ranker (IDProxy, stage 2)."""

    ablate: AdaptorAblation = AdaptorAblation()
    joint: Joint = Joint()
    mlp_units: NonNegativeInt = 256
    """Units of the adaptor's MLP over the layer states; 0 makes it linear."""
    epochs: PositiveInt = 6
    patience: PositiveInt = 2
    windows_per_step: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    dropout: Share = 0.3
    frequency_half_weight: PositiveFloat = 300.0
    """Train events at which an item's total weight is half of its limit. Small: all items have similar weights, so that
    popular items do not dominate; their click rate does not either, so proxies are calibrated on validation rows
    afterwards. Large: all events have similar weights."""
    warmup_events: NonNegativeInt | Literal["curve"] = "curve"
    """Train events from which an item is served by its ID row alone, with a blend before; 0 switches at the first
    event. `curve` selects the best value on validation rows of warming items."""

    @model_validator(mode="after")
    def _gate_has_something_to_compare(self) -> Self:
        if self.ablate.coarse and not self.ablate.gate:
            raise ValueError(
                "method.fine.ablate.coarse leaves out the coarse proxy, an input of the gate; set "
                "method.fine.ablate.gate: true too"
            )
        return self
