import pytest
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.features import NO_FEATURES, Categorical, FeatureSchema, Numeric
from coldstart.rankers.conformance import faults
from coldstart.rankers.kinds import CLASSES
from tests.rankers import own_ranker

FEATURES = FeatureSchema(
    categorical=(Categorical(owner="item", name="genre", values=("a", "b")),),
    numeric=(Numeric(owner="user", name="age", mean=0.0, scale=1.0),),
)


def found_in(own, features=NO_FEATURES, **settings):
    def make():
        return own(31, RankerSettings(**{"width": 8, "hidden": (16,)} | settings), features)

    torch.manual_seed(1)
    ranker = make().eval()
    if hasattr(ranker, "trained"):
        ranker.trained[1:20] = True
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return faults(ranker, make)


@pytest.mark.parametrize("features", [NO_FEATURES, FEATURES])
@pytest.mark.parametrize("name", CLASSES)
def test_the_platforms_own_rankers_have_no_faults(name, features):
    assert found_in(CLASSES[name], features, kind=name) == []


@pytest.mark.parametrize("table", ["hashed", "quotient_remainder"])
def test_nor_has_one_whose_items_share_rows(table):
    assert found_in(own_ranker.Dot, table={"kind": table, "rows": 10}) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (own_ranker.Bare, "no settings, features, trained"),
        (own_ranker.NoSlot, "no item slot: forward(batch, slots)"),
        (own_ranker.SlotIgnored, "item slot is not used"),
        (own_ranker.ItemBesideSlot, "read beside the slot"),
        (own_ranker.CrossTalk, "targets see each other"),
        (own_ranker.Detached, "no gradient with respect to `slots`"),
        (own_ranker.NoHistory, "history is not used"),
        (own_ranker.FutureSeen, "history_label is read where batch.visible is False"),
        (own_ranker.PaddingSeen, "padding of the history"),
        (own_ranker.BatchSeen, "alone than among others"),
        (own_ranker.Restless, "other logits the second time"),
        (own_ranker.WrongShape, "gives [3] for 3 rows of 4 targets"),
        (own_ranker.NoOov, "row 0, the OOV row"),
        (own_ranker.NarrowTable, "shape [31, 7]; it must be [V, d] = [31, 8]"),
        (own_ranker.LoseWeight, "no parameters or buffers"),
        (own_ranker.NanWhenEmpty, "without any visible history"),
        (own_ranker.Fails, "fails with KeyError: 'age'"),
    ],
)
def test_each_fault_is_named(wrong, words):
    assert any(words in fault for fault in found_in(wrong))


def test_a_good_ranker_of_a_users_own_passes():
    assert found_in(own_ranker.Dot) == []
