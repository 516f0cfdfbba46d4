import numpy as np
import pytest
import torch

from coldstart.config.recipe import Fine
from coldstart.data.batches import UserWindows
from coldstart.methods.baselines.trained import BASELINES, BaselineInputs, build_baseline
from coldstart.metrics.clicks import gauc
from coldstart.rankers import weights_sha256
from coldstart.training.ctr_trainer import TrainingContext, score_targets
from tests.methods.idproxy.test_fine_training import FINE, item_table
from tests.training.clicks import low_rank_clicks, small_ranker


@pytest.fixture(scope="module")
def inputs() -> BaselineInputs:
    clicks = low_rank_clicks(users=120, cold=12)
    ranker = small_ranker(clicks, epochs=2)[0]
    fine = Fine(**FINE | {"epochs": 1, "joint": {"epochs": 1}})
    context = TrainingContext(seed=1, gauc=gauc)
    return BaselineInputs(ranker, clicks, item_table(clicks), ranker.trained.numpy(), fine, context)


def test_grids_are_equally_large() -> None:
    assert {len(kind.grid) for name, kind in BASELINES.items() if name not in ("oov", "mean_row")} == {4}


@pytest.mark.parametrize("name", BASELINES)
def test_items_without_an_id_are_served_by_the_baseline(inputs: BaselineInputs, name: str) -> None:
    before = weights_sha256(inputs.ranker)
    baseline = build_baseline(name, inputs, BASELINES[name].grid[0])
    assert weights_sha256(inputs.ranker) == before
    cold = ~inputs.ranker.trained
    cold[0] = False
    assert torch.equal(baseline.served[cold], baseline.cold[cold])
    assert baseline.served.isfinite().all()
    assert 0 <= baseline.valid_gauc(inputs) <= 1
    assert (baseline.parameters > 0) == BASELINES[name].clicks == (baseline.epochs > 0)


@pytest.mark.parametrize("name", [name for name in BASELINES if not name.startswith(("joint", "content"))])
def test_the_ranker_serves_items_with_an_id_as_before(inputs: BaselineInputs, name: str) -> None:
    baseline = build_baseline(name, inputs, BASELINES[name].grid[0])
    test = UserWindows(inputs.sequences, history=12, splits=[2])
    known = inputs.ranker.trained.numpy()[inputs.sequences.item_idx[test.event_indices]]
    assert 0 < known.sum() < len(known)
    scores = score_targets(lambda batch: baseline.model(batch, baseline.served[batch.target_idx]), test)
    reference = score_targets(lambda batch: inputs.ranker(batch, inputs.ranker.id_slots(batch.target_idx)), test)
    assert np.allclose(scores[known], reference[known], atol=1e-5)


def test_item_effect_is_the_same_for_every_user(inputs: BaselineInputs) -> None:
    baseline = build_baseline("item_effect", inputs, BASELINES["item_effect"].grid[0])
    batch = UserWindows(inputs.sequences, history=12, splits=[2]).batch([0, 1, 2])
    with torch.no_grad():
        added = baseline.model(batch, baseline.cold[batch.target_idx]) - baseline.model(
            batch, baseline.cold[torch.zeros_like(batch.target_idx)]
        )
    assert torch.allclose(added, baseline.cold[batch.target_idx][..., -1], atol=1e-5)


def test_labels_of_the_test_part_change_nothing(inputs: BaselineInputs) -> None:
    from dataclasses import replace

    clicks = inputs.sequences
    other = replace(clicks, label=np.where(clicks.split == 2, 1 - clicks.label, clicks.label))
    for name in ("item_effect", "fine", "joint", "content_feature"):
        one, two = (
            build_baseline(name, replace(inputs, sequences=each), BASELINES[name].grid[0]) for each in (clicks, other)
        )
        assert torch.equal(one.served, two.served), name
        assert one.valid_gauc(inputs) == two.valid_gauc(inputs)
