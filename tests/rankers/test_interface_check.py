import pytest
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.features import NO_FEATURES, Categorical, FeatureSchema, Numeric
from coldstart.rankers.interface_check import check_interface
from coldstart.rankers.ranker_classes import RANKERS
from tests.rankers import own_ranker

FEATURES = FeatureSchema(
    categorical=(Categorical(owner="item", name="genre", values=("a", "b")),),
    numeric=(Numeric(owner="user", name="age", mean=0.0, scale=1.0),),
)


def problems_of(own, features=NO_FEATURES, **settings):
    def create():
        return own(31, RankerSettings(**{"embedding_dim": 8, "mlp_units": (16,)} | settings), features)

    torch.manual_seed(1)
    ranker = create().eval()
    if hasattr(ranker, "trained"):
        ranker.trained[1:20] = True
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return check_interface(ranker, create)


@pytest.mark.parametrize("features", [NO_FEATURES, FEATURES])
@pytest.mark.parametrize("name", RANKERS)
def test_built_in_rankers_have_no_problems(name, features):
    assert problems_of(RANKERS[name], features, kind=name) == []


@pytest.mark.parametrize("table", ["hashed", "quotient_remainder"])
def test_a_ranker_with_shared_rows_has_no_problems(table):
    assert problems_of(own_ranker.Dot, table={"kind": table, "rows": 10}) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (own_ranker.Bare, "no settings, features, trained"),
        (own_ranker.NoSlot, "no item slot: forward(batch, slots)"),
        (own_ranker.SlotIgnored, "item slot is not used"),
        (own_ranker.ItemBesideSlot, "not read from the slot alone"),
        (own_ranker.CrossTalk, "targets influence each other"),
        (own_ranker.Detached, "no gradient with respect to `slots`"),
        (own_ranker.NoHistory, "history is not used"),
        (own_ranker.FutureSeen, "history_label is read where batch.history_mask is False"),
        (own_ranker.PaddingSeen, "padding of the history"),
        (own_ranker.BatchSeen, "score of a row depends on the other rows"),
        (own_ranker.Restless, "two forward passes of the same batch give different logits"),
        (own_ranker.WrongShape, "returns shape [3] for 3 rows of 4 targets"),
        (own_ranker.NoOov, "row 0, the OOV row"),
        (own_ranker.NarrowTable, "shape [31, 7]; it must be [V, d] = [31, 8]"),
        (own_ranker.LoseWeight, "not parameters or buffers"),
        (own_ranker.NanWhenEmpty, "without visible history"),
        (own_ranker.Fails, "fails with KeyError: 'age'"),
    ],
)
def test_each_problem_is_named(wrong, words):
    assert any(words in problem for problem in problems_of(wrong))


def test_a_correct_custom_ranker_has_no_problems():
    assert problems_of(own_ranker.Dot) == []
