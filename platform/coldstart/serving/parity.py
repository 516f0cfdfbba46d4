"""Whether the models that were put up answer as the release does offline, before any traffic reaches them."""

from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from coldstart.config import UserError
from coldstart.registry import Release
from coldstart.serving.golden import Golden, golden

TOLERANCE = 1e-5
_SECONDS = 60.0
_READINGS = 4


def check_parity(
    release: Release, encoder: DeploymentHandle[Any], adaptor: DeploymentHandle[Any], ranker: DeploymentHandle[Any]
) -> None:
    """Asks the deployments of a release its golden requests.

    The encoder has answered its own golden request when it came up; the texts and pictures that its offline readings
    were made of are not part of a release.

    Raises:
        UserError: an answer differs from the offline one; says how much.
    """
    drawn = golden(release)
    gaps = {"ranker": _ranker_gap(drawn, ranker), "adaptor": _adaptor_gap(drawn, adaptor)}
    # Written so that a gap that is not a number is refused too.
    if not all(gap <= TOLERANCE for gap in gaps.values()):
        shown = ", ".join(f"{kind} {gap:.1e}" for kind, gap in gaps.items())
        raise UserError(
            f"release {release.name} is refused: golden requests differ from its offline answers by {shown}, at most "
            f"{TOLERANCE:g} is allowed; do the serving machines run the same versions as this one, on whole files?"
        )


def _ranker_gap(drawn: Golden, ranker: DeploymentHandle[Any]) -> float:
    answers = ranker.rank.remote(drawn.queries()).result(timeout_s=_SECONDS)
    for answer in answers:
        if isinstance(answer, Exception):
            raise RuntimeError("the ranker does not answer golden requests") from answer
    return float(np.abs(np.concatenate(answers) - drawn.offline()).max())


def _adaptor_gap(drawn: Golden, adaptor: DeploymentHandle[Any]) -> float:
    readings = list(zip(drawn.coarse, drawn.states, strict=True))[:_READINGS]
    made = [adaptor.adapt.remote(reading).result(timeout_s=_SECONDS) for reading in readings]
    return float(np.abs(np.array(made) - drawn.fine[:_READINGS]).max())
