import numpy as np
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import UserWindows
from coldstart.evaluation.gaze import gaze
from coldstart.rankers import DinDcn, Ranker
from coldstart.rankers.transformer import Transformer
from tests.events import Events


def _tables() -> dict[str, torch.Tensor]:
    """`like` is a slot that looks for what is liked: the attention's keys are made to tell it."""
    return {"oov": torch.zeros(21, 8), "like": torch.ones(21, 8) * 3}


def _looking_for_likes() -> DinDcn:
    torch.manual_seed(0)
    ranker = DinDcn(21, RankerSettings(width=8, history=8, hidden=(8,))).eval()
    attention = ranker.attention
    with torch.no_grad():
        attention.query.weight.copy_(torch.eye(8))
        attention.query.bias.zero_()
        attention.label.weight.zero_()
        attention.label.weight[1, :8] = 1
        attention.key.weight.zero_()
    return ranker


def test_a_slot_that_asks_for_likes_puts_the_weight_there(windows: UserWindows) -> None:
    among = {"cold": torch.arange(21) > 10, "none": torch.zeros(21, dtype=torch.bool)}
    found = gaze(_looking_for_likes(), [windows.batch(np.arange(len(windows)))], _tables(), among, base="oov")
    assert list(found) == ["cold"]
    oov, like = found["cold"]["oov"], found["cold"]["like"]
    assert oov["targets"] == like["targets"] > 50
    assert abs(oov["liked"] - oov["liked_events"]) < 1e-5
    assert abs(oov["evenness"] - 1) < 1e-5
    assert oov["moved"] == 0
    assert like["liked"] > 0.95
    assert like["evenness"] < 0.95
    assert 0.1 < like["moved"] < 1


def test_what_is_hooked_is_let_go_and_scores_stay(windows: UserWindows) -> None:
    ranker, batch = _looking_for_likes(), windows.batch(np.arange(4))
    slots = _tables()["like"][batch.target_idx]
    with torch.inference_mode():
        before = ranker(batch, slots)
        gaze(ranker, [batch], _tables(), {"all": torch.ones(21, dtype=torch.bool)}, base="oov")
        assert torch.equal(ranker(batch, slots), before)
    assert not any(module._forward_pre_hooks for module in ranker.modules())


def test_of_two_layers_the_targets_own_look_counts(windows: UserWindows) -> None:
    torch.manual_seed(0)
    ranker = Transformer(21, RankerSettings(kind="transformer", width=8, history=8, hidden=(8,))).eval()
    among = {"all": torch.ones(21, dtype=torch.bool)}
    found = gaze(ranker, [windows.batch(np.arange(len(windows)))], _tables(), among, base="oov")
    assert 0 < found["all"]["oov"]["past"] < 1


def test_a_ranker_without_attention_has_nothing_to_show(
    ranker: Ranker, windows: UserWindows, sequences: Events
) -> None:
    among = {"all": torch.ones(21, dtype=torch.bool)}
    tables = {"oov": torch.zeros(21, 6)}
    assert gaze(ranker, [windows.batch(np.arange(4))], tables, among, base="oov") == {}
