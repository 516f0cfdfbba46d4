import numpy as np
import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import UserWindows
from coldstart.evaluation.diagnostics.attention_stats import attention_stats
from coldstart.rankers import DinDcn, Ranker
from coldstart.rankers.transformer import Transformer
from tests.events import Events


def _tables() -> dict[str, torch.Tensor]:
    """`like` is a slot whose query matches clicked events; `_attends_to_clicks` sets the keys to their label."""
    return {"oov": torch.zeros(21, 8), "like": torch.ones(21, 8) * 3}


def _attends_to_clicks() -> DinDcn:
    torch.manual_seed(0)
    ranker = DinDcn(21, RankerSettings(embedding_dim=8, max_history=8, mlp_units=(8,))).eval()
    attention = ranker.history_attention
    with torch.no_grad():
        attention.query_proj.weight.copy_(torch.eye(8))
        attention.query_proj.bias.zero_()
        attention.label_embedding.weight.zero_()
        attention.label_embedding.weight[1, :8] = 1
        attention.key_proj.weight.zero_()
    return ranker


def test_a_slot_that_matches_clicked_events_puts_the_weight_on_them(windows: UserWindows) -> None:
    groups = {"cold": torch.arange(21) > 10, "none": torch.zeros(21, dtype=torch.bool)}
    found = attention_stats(
        _attends_to_clicks(), [windows.batch(np.arange(len(windows)))], _tables(), groups, base="oov"
    )
    assert list(found) == ["cold"]
    oov, like = found["cold"]["oov"], found["cold"]["like"]
    assert oov["targets"] == like["targets"] > 50
    assert abs(oov["clicked_weight"] - oov["clicked_fraction"]) < 1e-5
    assert abs(oov["normalized_entropy"] - 1) < 1e-5
    assert oov["total_variation"] == 0
    assert like["clicked_weight"] > 0.95
    assert like["normalized_entropy"] < 0.95
    assert 0.1 < like["total_variation"] < 1


def test_hooks_are_removed_and_scores_do_not_change(windows: UserWindows) -> None:
    ranker, batch = _attends_to_clicks(), windows.batch(np.arange(4))
    slots = _tables()["like"][batch.target_idx]
    with torch.inference_mode():
        before = ranker(batch, slots)
        attention_stats(ranker, [batch], _tables(), {"all": torch.ones(21, dtype=torch.bool)}, base="oov")
        assert torch.equal(ranker(batch, slots), before)
    assert not any(module._forward_pre_hooks for module in ranker.modules())


def test_with_two_layers_the_last_attention_of_the_target_counts(windows: UserWindows) -> None:
    torch.manual_seed(0)
    ranker = Transformer(21, RankerSettings(kind="transformer", embedding_dim=8, max_history=8, mlp_units=(8,))).eval()
    groups = {"all": torch.ones(21, dtype=torch.bool)}
    found = attention_stats(ranker, [windows.batch(np.arange(len(windows)))], _tables(), groups, base="oov")
    assert 0 < found["all"]["oov"]["history_weight"] < 1


def test_a_ranker_without_attention_has_no_statistics(ranker: Ranker, windows: UserWindows, sequences: Events) -> None:
    groups = {"all": torch.ones(21, dtype=torch.bool)}
    tables = {"oov": torch.zeros(21, 6)}
    assert attention_stats(ranker, [windows.batch(np.arange(4))], tables, groups, base="oov") == {}
