"""A release whose deployments differ from its offline scores is refused."""

import numpy as np
import pytest
import torch

from coldstart.alignment import load_adaptor
from coldstart.config import UserError, read_artifact
from coldstart.rankers import load_ranker
from coldstart.registry import Release
from coldstart.serving.parity import check_gaps, measure_gaps
from coldstart.serving.scoring import score
from tests.serving.tiny import tiny_recipe, write_run


class Deployed:
    """Fake handle of a deployment."""

    def __init__(self, answer):
        self.answer = answer
        self.rank = self.adapt = self

    def remote(self, argument):
        return type("Response", (), {"result": lambda _, timeout_s: self.answer(argument)})()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "parity")
    write_run(recipe)
    parts = {kind: read_artifact(recipe.run_dir / kind, kind) for kind in ("ranker", "encoder", "adaptor", "proxies")}
    return Release("parity", None, {"adaptor": 3}, "d" * 64, **parts)


def check(release, *, scores=lambda scores: scores, proxies=lambda proxy: proxy) -> None:
    ranker, adaptor = load_ranker(release.ranker.path), load_adaptor(release.adaptor.path)

    def rank(queries):
        return [scores(answer.copy()) for answer in score(ranker, queries, history=ranker.max_history)]

    def adapt(reading):
        with torch.inference_mode():
            coarse, states = (torch.from_numpy(part[None]) for part in reading)
            return proxies(adaptor(coarse, states).numpy()[0]), 1

    check_gaps(release, measure_gaps(release, Deployed(adapt).remote, Deployed(rank).remote))


def test_the_release_itself_passes(release):
    check(release)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"scores": lambda scores: scores + 1e-3}, "ranker 1.0e-03"),
        ({"scores": lambda scores: scores * np.nan}, "ranker nan"),
        ({"proxies": lambda proxy: -proxy}, "adaptor"),
    ],
)
def test_different_answers_are_refused_with_the_gap(release, changes, shown):
    with pytest.raises(UserError, match=r"parity-adaptor/3 is refused") as refused:
        check(release, **changes)
    assert shown in str(refused.value)


def test_a_failing_replica_is_an_error(release):
    with pytest.raises(RuntimeError, match="golden"):
        measure_gaps(release, None, Deployed(lambda queries: [ValueError("x") for _ in queries]).remote)
