"""Checks that deployed models reproduce the offline scores of their release, before they receive traffic."""

from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray import serve

from coldstart.config import UserError
from coldstart.config.recipe import Serving
from coldstart.registry import Release
from coldstart.serving.core.golden_requests import GoldenRequests, load_golden_requests
from coldstart.serving.core.local_handle import LocalHandle
from coldstart.serving.deployment.scorer_replica import ScorerReplica
from coldstart.serving.store.row_layout import pack_rows

RemoteCall = Callable[[Any], Any]
"""Argument -> response with a method `result`, like `handle.method.remote` of Ray Serve."""
TOLERANCE = 1e-5
_TIMEOUT_S = 60.0
_ITEMS = 4


def check_parity(release: Release, settings: Serving, adaptor: str, scorer: str | None = None) -> None:
    """Sends the golden requests of a release to its deployments.

    The encoder is not compared: a release does not contain the texts and images of its offline embeddings. Each encoder
    replica answers a golden request when it starts.

    Args:
        release: The deployed release.
        settings: The recipe's `serving` section.
        adaptor: Name of the adaptor's application.
        scorer: Name of the scorer's application; `None` if the gateways hold the scorer.

    Raises:
        UserError: a deployment differs from the offline scores by more than TOLERANCE.
    """
    # In a worker process that exits afterwards: a process that has called a deployment stays connected to that Serve
    # instance, and would not find the next one.
    measure = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_measure_deployments)
    check_gaps(release, ray.get(measure.remote(release, settings, adaptor, scorer)))


def check_gaps(release: Release, gaps: dict[str, float]) -> None:
    """Checks gaps against TOLERANCE.

    Raises:
        UserError: a gap is too large.
    """
    # `not all` also refuses NaN.
    if not all(gap <= TOLERANCE for gap in gaps.values()):
        shown = ", ".join(f"{kind} {gap:.1e}" for kind, gap in gaps.items())
        raise UserError(
            f"release {release.name} is refused: its deployments differ from its offline scores by {shown} on golden "
            f"requests, at most {TOLERANCE:g} is allowed; check that the serving machines have the same package "
            "versions as this one, and that the files of the release are not damaged"
        )


def measure_gaps(release: Release, adapt: RemoteCall, rank: RemoteCall) -> dict[str, float]:
    """Largest difference from the offline results, by model.

    Args:
        release: The release whose offline results are compared.
        adapt: Calls the deployed adaptor.
        rank: Calls the deployed scorer.
    """
    requests = load_golden_requests(release)
    return {"scorer": _scorer_gap(requests, rank), "adaptor": _adaptor_gap(requests, adapt)}


def _measure_deployments(release: Release, settings: Serving, adaptor: str, scorer: str | None) -> dict[str, float]:
    scoring = (
        serve.get_app_handle(scorer).rank.remote
        if scorer
        else LocalHandle(ScorerReplica(release.method, release.paths, settings)).remote
    )
    return measure_gaps(release, serve.get_app_handle(adaptor).adapt.remote, scoring)


def _scorer_gap(requests: GoldenRequests, rank: RemoteCall) -> float:
    answers = rank(requests.queries()).result(timeout_s=_TIMEOUT_S)
    for answer in answers:
        if isinstance(answer, Exception):
            raise RuntimeError("the scorer failed on golden requests") from answer
    return float(np.abs(np.concatenate(answers) - requests.offline()).max())


def _adaptor_gap(requests: GoldenRequests, adapt: RemoteCall) -> float:
    # From row 1 on: row 0 is the unknown item.
    wanted = requests.rows[1 : _ITEMS + 1]
    encoded = pack_rows(
        {name: values.numpy() for name, values in requests.encoded.columns.items()}, requests.encoded.specs
    )
    found = [adapt(row).result(timeout_s=_TIMEOUT_S)[0] for row in encoded[1 : _ITEMS + 1]]
    return max(
        float(np.abs(row[name].astype(np.float64) - expected[name]).max(initial=0))
        for row, expected in zip(found, wanted, strict=True)
        for name in expected.dtype.names or ()
    )
