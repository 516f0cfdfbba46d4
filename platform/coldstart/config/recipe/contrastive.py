"""Contrastive training on pairs, of every method that has such a stage."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from coldstart.config.section import Section, Share


class Contrastive(Section):
    """InfoNCE over pairs: batch, temperature, negatives from earlier steps, and the optimizer."""

    epochs: NonNegativeInt = 10
    """Passes over the pairs; 0 leaves the encoder as it was."""
    batch: PositiveInt = 128
    """Global batch in pairs, over all ranks. Partners of other pairs in it are negatives."""
    temperature: PositiveFloat = 0.07
    learn_temperature: bool = True
    """Whether the temperature is trained, starting from `temperature`, within 0.01 and 1."""
    both_ways: bool = True
    """Adds the loss of retrieving the query by the item, so that the loss is symmetric."""
    queue_batches: NonNegativeInt = 0
    """Batches of earlier steps whose items are negatives, too, encoded by a momentum copy of the model; 0 for none."""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.999
    """Share of the momentum copy's weights that stay in a step; needs queue_batches."""
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_ratio: Share = 0.1
    """Share of steps with linear warm-up; cosine decay follows."""
    max_grad_norm: PositiveFloat = 1.0
    holdout_fraction: Share = 0.1
    """Seeded share of items or users, whose pairs are excluded from the loss and measure retrieval."""
    checkpoint_every: PositiveInt = 50
    """Steps between resumable checkpoints; one is also written after every epoch."""
