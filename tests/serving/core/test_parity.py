"""A release whose deployments differ from its offline scores is refused."""

import numpy as np
import pytest

from coldstart.config import UserError
from coldstart.data.item_table import ItemTable
from coldstart.serving.core.parity import check_gaps, measure_gaps
from coldstart.serving.core.scoring import score
from coldstart.serving.store.row_layout import adapt_table, stack_rows
from tests.serving.local import LocalModels
from tests.serving.tiny import read_run, tiny_recipe, write_run


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
    return read_run(recipe, version=3)


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "parity")
    write_run(recipe, mode="joint")
    return read_run(recipe, version=3)


def check(release, *, scores=lambda scores: scores, proxies=lambda proxy: proxy) -> None:
    models = LocalModels(release)

    def rank(queries):
        return [scores(answer.copy()) for answer in score(models.scorer, queries)]

    def adapt(encoded):
        row = adapt_table(models.adaptor, ItemTable.from_rows(stack_rows([encoded])))[0].copy()
        row["proxy"] = proxies(row["proxy"])
        return row, 1

    check_gaps(release, measure_gaps(release, Deployed(adapt).remote, Deployed(rank).remote))


def test_the_release_itself_passes(release, joint):
    check(release)
    check(joint)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"scores": lambda scores: scores + 1e-3}, "scorer 1.0e-03"),
        ({"scores": lambda scores: scores * np.nan}, "scorer nan"),
        ({"proxies": lambda proxy: -proxy}, "adaptor"),
    ],
)
@pytest.mark.parametrize("mode", ["release", "joint"])
def test_different_answers_are_refused_with_the_gap(request, mode, changes, shown):
    with pytest.raises(UserError, match=r"parity-scorer/3 is refused") as refused:
        check(request.getfixturevalue(mode), **changes)
    assert shown in str(refused.value)


def test_a_failing_replica_is_an_error(release):
    with pytest.raises(RuntimeError, match="golden"):
        measure_gaps(release, None, Deployed(lambda queries: [ValueError("x") for _ in queries]).remote)
