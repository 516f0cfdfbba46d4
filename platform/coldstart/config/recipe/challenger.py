"""The A/B test of a challenger on live traffic, and the statistics of serving."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from coldstart.config.section import Section, Share


class Challenger(Section):
    """A/B test of the release at the alias `challenger` against the champion."""

    traffic_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction of users that the challenger serves, or scores in shadow mode. 0: no challenger is deployed."""
    shadow: bool = False
    """Shadow mode: both releases score the requests, and the champion's scores are returned."""
    salt: Annotated[str, Field(max_length=200)] = ""
    """Another salt selects other users. The challenger's name is always part of the hash."""
    timeout_s: PositiveFloat = 1.0
    """Seconds until the champion answers instead of a challenger that has not answered."""
    window_s: PositiveFloat = 300.0
    """Window of the comparison, in seconds; long enough for `min_requests` at a small traffic fraction."""
    min_requests: PositiveInt = 50
    """Fewest requests in the window for a decision."""
    max_error_rate_increase: Share = 0.01
    """Largest allowed difference between the error rates of challenger and champion."""
    max_p95_ratio: Annotated[float, Field(ge=1)] = 2.0
    """Largest allowed ratio of the challenger's 95th latency percentile to the champion's."""
    latency_slack_ms: Annotated[float, Field(ge=0)] = 20.0
    """Added to the allowed latency, because users do not notice a multiple of a few milliseconds."""


class Stats(Section):
    """Statistics that a gateway collects."""

    window_s: PositiveFloat = 3600.0
    """Window of the score distribution and of the calibration, in seconds."""
    feedback_buffer_rows: PositiveInt = 1_000_000
    """Candidates whose scores a gateway keeps until feedback arrives, about 15 bytes each."""
    reference_window_s: PositiveFloat = 600.0
    """Seconds after the start of a release whose scores are the reference for its score drift."""
