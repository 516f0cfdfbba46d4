"""The trial of a challenger: who is in it, and when it has failed."""

from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt

import numpy as np

from coldstart.config.recipe import Challenger
from coldstart.serving.figures import SECONDS, Sums, binned, quantile

_Z = 3.0
"""Standard errors by which a rate must be too high. It is looked at every second, so chance gets many tries."""
_PERCENTILE = 0.95


@dataclass(frozen=True)
class Trial:
    """A challenger on live traffic.

    Attributes:
        number: Of the trial: the same release put up again is another trial.
        champion: Name of the release it is compared with.
        challenger: Name of the release.
    """

    number: str
    champion: str
    challenger: str


@dataclass(frozen=True)
class Abort:
    """How a trial ended.

    Attributes:
        reason: For people.
        at: Unix seconds.
    """

    reason: str
    at: float


class Draw:
    """Which users are in a trial. The same on every gateway and in every process, and for as long as the trial lasts.

    A larger share keeps the users of a smaller one.

    Args:
        challenger: Name of the release; another one draws other users.
        settings: The recipe's section.
    """

    def __init__(self, challenger: str, settings: Challenger) -> None:
        self._key = blake2b(f"{settings.salt}/{challenger}".encode(), digest_size=32).digest()
        self._below = int(settings.share * 2**64)

    def takes(self, user_id: str) -> bool:
        """Whether a user is in the trial."""
        drawn = blake2b(user_id.encode(errors="surrogatepass"), key=self._key, digest_size=8).digest()
        return int.from_bytes(drawn) < self._below


def side(seconds: list[float], errors: int) -> Sums:
    """What is known of one side: requests, errors, and latencies in bins of SECONDS."""
    return np.concatenate([[len(seconds), errors], binned(seconds, SECONDS)])


def judge(champion: Sums | None, challenger: Sums | None, limits: Challenger) -> str | None:
    """Why a trial must end, or `None`.

    A rate is too high when the lower end of its Wilson interval (Wilson, 1927) lies above what is allowed: a few
    requests end a trial only when nearly all of them fail.

    Args:
        champion: `side` of the requests that the champion answered in the window; `None` if it answered none.
        challenger: The challenger's.
        limits: The recipe's section.
    """
    if challenger is None or challenger[0] < limits.min_requests:
        return None
    champion = side([], 0) if champion is None else champion
    asked, failed = challenger[:2]
    allowed = _rate(champion[1], champion[0]) + limits.more_errors
    if _lower(failed, asked) > allowed:
        return (
            f"{failed:.0f} of {asked:.0f} requests failed, of the champion's {champion[1]:.0f} of {champion[0]:.0f}; "
            f"serving.challenger.more_errors allows {limits.more_errors:g} more"
        )
    if champion[0] < limits.min_requests:
        return None
    usual = quantile(champion[2:], SECONDS, _PERCENTILE)
    limit = limits.slower * usual + limits.slack_ms / 1000
    slow = challenger[2:][int(np.searchsorted(SECONDS, limit)) + 1 :].sum()
    if _lower(slow, asked) > 1 - _PERCENTILE:
        return (
            f"{slow:.0f} of {asked:.0f} requests took over {1000 * limit:.0f} ms; the champion's 95th percentile "
            f"is {1000 * usual:.0f} ms (serving.challenger.slower, slack_ms)"
        )
    return None


def _rate(some: float, of: float) -> float:
    return float(some / of) if of else 0.0


def _lower(some: float, of: float) -> float:
    """Lower end of Wilson's interval of a rate."""
    share, z2 = some / of, _Z * _Z
    return float((share + z2 / (2 * of) - _Z * sqrt(share * (1 - share) / of + z2 / (4 * of * of))) / (1 + z2 / of))
