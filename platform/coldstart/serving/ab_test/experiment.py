"""The A/B test of a challenger: which users are in it, and when it must be aborted."""

from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt

import numpy as np

from coldstart.config.recipe import Challenger
from coldstart.serving.monitoring.window_stats import LATENCY_EDGES_S, Sums, bin_counts, binned_quantile

_Z = 3.0
"""Standard errors by which a rate must be too high: the test is checked every second, so outliers are frequent."""
_PERCENTILE = 0.95


@dataclass(frozen=True)
class ABTest:
    """A challenger on live traffic.

    Attributes:
        id: Unique; the same release deployed again is another test.
        champion: Name of the champion's release.
        challenger: Name of the challenger's release.
    """

    id: str
    champion: str
    challenger: str


@dataclass(frozen=True)
class Abort:
    """Why and when an A/B test was aborted.

    Attributes:
        reason: A sentence for people.
        at: Unix seconds.
    """

    reason: str
    at: float


class TrafficSplit:
    """Selects the users in an A/B test by a keyed hash: the same ones in every process, as long as the test runs.

    A larger `traffic_fraction` keeps the users of a smaller one.

    Args:
        challenger: Name of the challenger's release; another name selects other users.
        settings: The recipe's `serving.challenger` section.
    """

    def __init__(self, challenger: str, settings: Challenger) -> None:
        self._key = blake2b(f"{settings.salt}/{challenger}".encode(), digest_size=32).digest()
        self._threshold = int(settings.traffic_fraction * 2**64)

    def to_challenger(self, user_id: str) -> bool:
        """Whether the challenger serves this user."""
        hashed = blake2b(user_id.encode(errors="surrogatepass"), key=self._key, digest_size=8).digest()
        return int.from_bytes(hashed) < self._threshold


def variant_sums(seconds: list[float], errors: int) -> Sums:
    """Statistics of one variant: requests, errors, and latency counts in the bins of LATENCY_EDGES_S."""
    return np.concatenate([[len(seconds), errors], bin_counts(seconds, LATENCY_EDGES_S)])


def abort_reason(champion: Sums | None, challenger: Sums | None, limits: Challenger) -> str | None:
    """Returns why an A/B test must be aborted, or `None`.

    A rate is too high if the lower end of its Wilson interval (Wilson, 1927) lies above the limit: a few requests abort
    a test only if nearly all of them fail.

    Args:
        champion: `variant_sums` of the champion's requests in the window; `None` if there are none.
        challenger: The same of the challenger.
        limits: The recipe's `serving.challenger` section.
    """
    if challenger is None or challenger[0] < limits.min_requests:
        return None
    champion = variant_sums([], 0) if champion is None else champion
    requests, errors = challenger[:2]
    allowed = _rate(champion[1], champion[0]) + limits.max_error_rate_increase
    if _wilson_lower(errors, requests) > allowed:
        return (
            f"{errors:.0f} of {requests:.0f} requests failed, the champion's {champion[1]:.0f} of {champion[0]:.0f}; "
            f"serving.challenger.max_error_rate_increase allows {limits.max_error_rate_increase:g} more"
        )
    if champion[0] < limits.min_requests:
        return None
    champion_p95 = binned_quantile(champion[2:], LATENCY_EDGES_S, _PERCENTILE)
    limit = limits.max_p95_ratio * champion_p95 + limits.latency_slack_ms / 1000
    slow = challenger[2:][int(np.searchsorted(LATENCY_EDGES_S, limit)) + 1 :].sum()
    if _wilson_lower(slow, requests) > 1 - _PERCENTILE:
        return (
            f"{slow:.0f} of {requests:.0f} requests took over {1000 * limit:.0f} ms; the champion's 95th percentile "
            f"is {1000 * champion_p95:.0f} ms (serving.challenger.max_p95_ratio, latency_slack_ms)"
        )
    return None


def _rate(count: float, total: float) -> float:
    return float(count / total) if total else 0.0


def _wilson_lower(count: float, total: float) -> float:
    """Lower end of the Wilson interval of a rate."""
    rate, z2 = count / total, _Z * _Z
    margin = _Z * sqrt(rate * (1 - rate) / total + z2 / (4 * total * total))
    return float((rate + z2 / (2 * total) - margin) / (1 + z2 / total))
