import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from coldstart.config import UserError
from coldstart.config.recipe import Fine
from coldstart.data.batches import UserWindows
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import adapt
from coldstart.methods.baselines.config import Settings
from coldstart.methods.baselines.contenders import CONTENDERS, ContenderInputs, build_contender
from coldstart.methods.baselines.saved import load_adaptor, load_scorer, save_baseline
from coldstart.metrics.clicks import gauc
from coldstart.rankers import weights_sha256
from coldstart.rankers.scorer import drop_target_ids, unknown_targets
from coldstart.training.ctr_trainer import TrainingContext, score_targets
from tests.methods.idproxy.test_fine_training import FINE, item_table
from tests.training.clicks import low_rank_clicks, small_ranker


@pytest.fixture(scope="module")
def inputs() -> ContenderInputs:
    clicks = low_rank_clicks(users=120, cold=12)
    ranker = small_ranker(clicks, epochs=2)[0]
    fine = Fine(**FINE | {"epochs": 1, "joint": {"epochs": 1}})
    context = TrainingContext(seed=1, gauc=gauc)
    columns = item_table(clicks).columns
    items = ItemTable({**columns, "text": columns["states"][:, 0, :2]})
    return ContenderInputs(ranker, clicks, items, ranker.trained.numpy(), fine, context)


def test_grids_are_equally_large() -> None:
    assert {len(kind.grid) for name, kind in CONTENDERS.items() if name not in ("oov", "mean_row")} == {4}


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_scores_items_without_an_id(inputs: ContenderInputs, name: str) -> None:
    before = weights_sha256(inputs.ranker)
    contender = build_contender(name, inputs, CONTENDERS[name].grid[0])
    assert weights_sha256(inputs.ranker) == before
    assert all(values.isfinite().all() for values in contender.items.columns.values())
    assert set(contender.scorer.inputs) == set(contender.items.columns)
    assert not contender.scorer.training
    assert 0 <= contender.valid_gauc(inputs.sequences) <= 1
    assert (contender.epochs > 0) == CONTENDERS[name].clicks
    assert contender.parameters > 0 or not CONTENDERS[name].clicks


@pytest.mark.parametrize(
    "name", [name for name in CONTENDERS if name not in ("content_feature", "content_slots", "joint_plain", "joint")]
)
def test_an_unknown_item_gets_the_oov_score(inputs: ContenderInputs, name: str) -> None:
    """Up to the regression of the similarities, which is the same for all unknown items."""
    contender = build_contender(name, inputs, CONTENDERS[name].grid[0])
    batch = unknown_targets(UserWindows(inputs.sequences, history=12, splits=[2]).batch([0, 1, 2]))
    scorer = contender.scorer
    with torch.no_grad():
        wanted = inputs.ranker(batch, inputs.ranker.id_slots(batch.target_idx))
        found = scorer.base(batch, contender.items) if name.endswith("similarity") else scorer(batch, contender.items)
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["oov", "mean_row", "item_effect", "ridge_map", "mlp_map", "coarse", "fine"])
def test_the_ranker_serves_items_with_an_id_as_before(inputs: ContenderInputs, name: str) -> None:
    contender = build_contender(name, inputs, CONTENDERS[name].grid[0])
    test = UserWindows(inputs.sequences, history=12, splits=[2])
    known = inputs.ranker.trained.numpy()[inputs.sequences.item_idx[test.event_indices]]
    assert 0 < known.sum() < len(known)
    scores = score_targets(lambda batch: contender.scorer(batch, contender.items), test)
    reference = score_targets(lambda batch: inputs.ranker(batch, inputs.ranker.id_slots(batch.target_idx)), test)
    assert np.allclose(scores[known], reference[known], atol=1e-5)
    assert np.allclose(scores[~known], reference[~known], atol=1e-5) == (name == "oov")


def test_item_effect_is_the_same_for_every_user(inputs: ContenderInputs) -> None:
    contender = build_contender("item_effect", inputs, CONTENDERS["item_effect"].grid[0])
    batch = drop_target_ids(UserWindows(inputs.sequences, history=12, splits=[2]).batch([0, 1, 2]))
    with torch.no_grad():
        added = contender.scorer(batch, contender.items) - contender.scorer(unknown_targets(batch), contender.items)
    assert torch.allclose(added, contender.items.columns["bias"][batch.target_row][..., 0], atol=1e-5)


def test_similarity_of_true_traits_beats_the_oov_row(inputs: ContenderInputs) -> None:
    similar = build_contender("text_similarity", inputs, {"penalty": 1.0})
    assert similar.valid_gauc(inputs.sequences) > build_contender("oov", inputs, {}).valid_gauc(inputs.sequences) + 0.05
    cold, known = similar.scorer.weights
    assert cold.shape == (8,)
    assert cold[1] > 0 > cold[4]
    assert not torch.equal(cold, known)


def test_labels_of_the_test_part_change_nothing(inputs: ContenderInputs) -> None:
    from dataclasses import replace

    clicks = inputs.sequences
    other = replace(clicks, label=np.where(clicks.split == 2, 1 - clicks.label, clicks.label))
    for name in ("item_effect", "fine", "joint", "content_feature", "content_similarity"):
        one, two = (
            build_contender(name, replace(inputs, sequences=each), CONTENDERS[name].grid[0]) for each in (clicks, other)
        )
        test = UserWindows(clicks, history=12, splits=[2])
        scores = [score_targets(lambda batch, c=each: c.scorer(batch, c.items), test) for each in (one, two)]
        assert np.array_equal(*scores), name
        assert one.valid_gauc(inputs.sequences) == two.valid_gauc(inputs.sequences)


@pytest.mark.parametrize("name", get_args(Settings.model_fields["use"].annotation))
def test_a_saved_baseline_scores_as_in_the_comparison(inputs: ContenderInputs, name: str, tmp_path: Path) -> None:
    settings = Settings(use=name)
    contender = build_contender(name, inputs, settings.point)
    save_baseline(contender.adaptor, contender.scorer, tmp_path)
    adaptor, scorer = load_adaptor(tmp_path), load_scorer(tmp_path, inputs.ranker)
    served = adapt(adaptor, inputs.items)
    batch = UserWindows(inputs.sequences, history=12, splits=[2]).batch([0, 1, 2])
    with torch.inference_mode():
        for seen_as in (batch, drop_target_ids(batch), unknown_targets(batch)):
            assert torch.equal(scorer(seen_as, served), contender.scorer(seen_as, contender.items))
    assert not adaptor.training
    assert not scorer.training
    reads = CONTENDERS[name].reads_encoder
    assert settings.reads_aligned == reads == bool({"coarse", "states"} & set(adaptor.inputs))
    assert settings.reads_text == ("text" in adaptor.inputs)


def test_a_damaged_baseline_is_refused(inputs: ContenderInputs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"baseline\.json or .* is missing; run the fit_baseline stage"):
        load_adaptor(tmp_path)
    contender = build_contender("mean_row", inputs, {})
    save_baseline(contender.adaptor, contender.scorer, tmp_path)
    config = json.loads((tmp_path / "baseline.json").read_text())
    config["adaptor"]["parts"][0]["map"]["width"] += 1
    (tmp_path / "baseline.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not hold a complete baseline .* run the fit_baseline stage again"):
        load_adaptor(tmp_path)
