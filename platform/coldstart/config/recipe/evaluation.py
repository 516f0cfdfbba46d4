"""What is measured and how sure we are."""

from typing import Annotated

from pydantic import Field, PositiveInt

from coldstart.config.section import Section


class Evaluation(Section):
    """What is measured and how sure we are."""

    bootstrap: PositiveInt = 1000
    """Resamples of users for the paired intervals."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    calibration_bins: PositiveInt = 15
    top: PositiveInt = 10
    """Places `K` that NDCG@K and Recall@K look at."""
