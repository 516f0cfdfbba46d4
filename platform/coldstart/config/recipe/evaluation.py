"""Evaluation: bootstrap, confidence level and ranking metrics."""

from typing import Annotated

from pydantic import Field, PositiveInt

from coldstart.config.section import Section


class Evaluation(Section):
    """Evaluation: bootstrap, confidence level and ranking metrics."""

    num_resamples: PositiveInt = 1000
    """Bootstrap resamples of users and items."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    calibration_bins: PositiveInt = 15
    top_k: PositiveInt = 10
    """`K` of NDCG@K and Recall@K."""
