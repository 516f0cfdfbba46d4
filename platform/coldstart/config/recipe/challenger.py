"""A second release on live traffic, and the watch over both."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from coldstart.config.section import Section, Share


class Challenger(Section):
    """The release at the alias `challenger`, beside the champion."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of users that the challenger answers; in shadow, whose requests it scores unseen. 0 puts none up."""
    shadow: bool = False
    """Score with both and return the champion's scores."""
    salt: Annotated[str, Field(max_length=200)] = ""
    """Another salt draws other users; the challenger's name is part of the draw anyway."""
    timeout_s: PositiveFloat = 1.0
    """How long a user waits for the challenger before the champion answers instead."""
    window_s: PositiveFloat = 300.0
    """Requests of how long ago the two are compared on: long enough for `min_requests` at a small share."""
    min_requests: PositiveInt = 50
    """Fewest requests of the challenger in the window before it is judged."""
    more_errors: Share = 0.01
    """Error rate that the challenger may have above the champion's."""
    slower: Annotated[float, Field(ge=1)] = 2.0
    """Times the champion's 95th percentile of latency that the challenger's may reach."""
    slack_ms: Annotated[float, Field(ge=0)] = 20.0
    """Added to it: of a champion that answers within milliseconds, a multiple is nothing a user feels."""


class Watch(Section):
    """What a gateway remembers so that it can tell how it does."""

    window_s: PositiveFloat = 3600.0
    """Score distribution and calibration are of this long."""
    remembered_rows: PositiveInt = 1_000_000
    """Candidates whose scores a gateway keeps for feedback to arrive, about 15 bytes each."""
    first_s: PositiveFloat = 600.0
    """A release's scores of its first so many seconds are what later ones are compared with."""
