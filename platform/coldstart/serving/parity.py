"""Whether the models that were put up answer as the release does offline, before any traffic reaches them."""

from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from coldstart.config import UserError
from coldstart.registry import Release
from coldstart.serving.golden import Golden, golden

TOLERANCE = 1e-5
_SECONDS = 60.0
_READINGS = 4


def check_parity(release: Release, *, adaptor: str, ranker: str) -> None:
    """Asks the deployments of a release its golden requests.

    The encoder has answered its own golden request when it came up; the texts and pictures that its offline readings
    were made of are not part of a release.

    Args:
        release: What was put up.
        adaptor: Application of its adaptor.
        ranker: Application of its ranker.

    Raises:
        UserError: an answer differs from the offline one; says how much.
    """
    # Not from this program: whoever has called a deployment goes on listening to Serve when Ray is long gone.
    asking = ray.remote(num_cpus=0, max_retries=0)(_ask)
    judge(release, ray.get(asking.remote(release, adaptor, ranker)))


def judge(release: Release, gaps: dict[str, float]) -> None:
    """Refuses gaps that are too large.

    Raises:
        UserError: says how large.
    """
    # Written so that a gap that is not a number is refused too.
    if not all(gap <= TOLERANCE for gap in gaps.values()):
        shown = ", ".join(f"{kind} {gap:.1e}" for kind, gap in gaps.items())
        raise UserError(
            f"release {release.name} is refused: golden requests differ from its offline answers by {shown}, at most "
            f"{TOLERANCE:g} is allowed; do the serving machines run the same versions as this one, on whole files?"
        )


def gaps(release: Release, adaptor: DeploymentHandle[Any], ranker: DeploymentHandle[Any]) -> dict[str, float]:
    """Largest difference to the offline answers, by kind of model."""
    drawn = golden(release)
    return {"ranker": _ranker_gap(drawn, ranker), "adaptor": _adaptor_gap(drawn, adaptor)}


def _ask(release: Release, adaptor: str, ranker: str) -> dict[str, float]:
    return gaps(release, serve.get_app_handle(adaptor), serve.get_app_handle(ranker))


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
