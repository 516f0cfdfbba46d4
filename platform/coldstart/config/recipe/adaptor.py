"""Fine alignment: the adaptor and its training."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from coldstart.config.section import Section, Share


class Fine(Section):
    """Fine alignment: the adaptor, trained by click loss through the frozen ranker (IDProxy, stage 2)."""

    mode: Literal["frozen"] = "frozen"
    hidden: PositiveInt = 256
    epochs: PositiveInt = 6
    patience: PositiveInt = 2
    users_per_step: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    dropout: Share = 0.3
