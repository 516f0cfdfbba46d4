"""Whether the models that were put up answer as the release does offline, before any traffic reaches them."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray import serve

from coldstart.config import UserError
from coldstart.config.recipe import Serving
from coldstart.registry import Release
from coldstart.serving.golden import Golden, golden
from coldstart.serving.ranker_replica import RankerReplica
from coldstart.serving.scoring import Floats, RankQuery

Ask = Callable[[Any], Any]
"""An argument -> something whose `result` is the answer, as a deployment's method is called."""
TOLERANCE = 1e-5
_SECONDS = 60.0
_READINGS = 4


def check_parity(release: Release, settings: Serving, adaptor: str, ranker: str | None = None) -> None:
    """Asks the deployments of a release its golden requests.

    The encoder has answered its own golden request when it came up; the texts and pictures that its offline readings
    were made of are not part of a release.

    Args:
        release: What was put up.
        settings: The recipe's section.
        adaptor: Application of its adaptor.
        ranker: Application of its ranker; None where gateways hold it.

    Raises:
        UserError: an answer differs from the offline one; says how much.
    """
    # Not from this program, and in a process that ends: whoever has called a deployment goes on listening to its Serve,
    # and knows no other, when that one is long gone.
    asking = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_ask)
    judge(release, ray.get(asking.remote(release, settings, adaptor, ranker)))


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


def gaps(release: Release, adapt: Ask, rank: Ask) -> dict[str, float]:
    """Largest difference to the offline answers, by kind of model.

    Args:
        release: Whose offline answers.
        adapt: Calls its adaptor.
        rank: Calls its ranker.
    """
    drawn = golden(release)
    return {"ranker": _ranker_gap(drawn, rank), "adaptor": _adaptor_gap(drawn, adapt)}


def _ask(release: Release, settings: Serving, adaptor: str, ranker: str | None) -> dict[str, float]:
    scoring = serve.get_app_handle(ranker).rank.remote if ranker else _Within(release, settings).remote
    return gaps(release, serve.get_app_handle(adaptor).adapt.remote, scoring)


class _Within:
    """The ranker as a gateway holds it."""

    def __init__(self, release: Release, settings: Serving) -> None:
        self.ranker = RankerReplica(release.ranker.path, settings)

    def remote(self, queries: list[RankQuery]) -> "_Within":
        """Scores queries at once."""
        self.answers = asyncio.run(self.ranker.rank(queries))
        return self

    def result(self, timeout_s: float) -> list[Floats | Exception]:
        """What was scored."""
        return self.answers


def _ranker_gap(drawn: Golden, rank: Ask) -> float:
    answers = rank(drawn.queries()).result(timeout_s=_SECONDS)
    for answer in answers:
        if isinstance(answer, Exception):
            raise RuntimeError("the ranker does not answer golden requests") from answer
    return float(np.abs(np.concatenate(answers) - drawn.offline()).max())


def _adaptor_gap(drawn: Golden, adapt: Ask) -> float:
    readings = list(zip(drawn.coarse, drawn.states, strict=True))[:_READINGS]
    made = [adapt(reading).result(timeout_s=_SECONDS)[0] for reading in readings]
    return float(np.abs(np.array(made) - drawn.fine[:_READINGS]).max())
