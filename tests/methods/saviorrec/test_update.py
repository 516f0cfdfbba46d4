"""The update of SaviorRec: newer events change the correction, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from coldstart.config import UserError, read_artifact
from coldstart.data.dataset import Dataset
from coldstart.data.schema import TRAIN
from coldstart.methods.available import METHODS
from coldstart.methods.base import ITEM_TABLE, SCORER, Champion
from coldstart.methods.idproxy.config import Settings as IDProxySettings
from coldstart.methods.saviorrec import scorer_training, stages, update
from coldstart.methods.saviorrec.config import Settings
from coldstart.methods.saviorrec.model import load_scorer
from coldstart.metrics.clicks import gauc
from coldstart.registry import Release
from coldstart.registry.release import check_consistent
from coldstart.training.ctr_trainer import TrainingContext
from tests.methods.saviorrec.conftest import make_scorer
from tests.methods.saviorrec.test_stages import embed, make_recipe, write_dataset, write_ranker

METHOD = METHODS["saviorrec"]
OPTIONS = Settings.model_validate({"rank": {"epochs": 2, "windows_per_step": 16, "learning_rate": 1e-2}})


def middle(clicks) -> int:
    """A time with train events before and after it."""
    return int(np.median(clicks.timestamp[clicks.split == TRAIN]))


@pytest.mark.parametrize("frozen", [False, True])
def test_only_the_correction_learns(ranker, clicks, items, frozen):
    scorer = make_scorer(ranker, frozen=frozen)
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    update.train_correction(scorer, clicks, items, middle(clicks), OPTIONS, TrainingContext(seed=1, gauc=gauc))
    changed = {name for name, value in scorer.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("mba.") for name in changed)
    assert any("codebooks" in name for name in changed)
    assert not scorer.training


def test_targets_are_the_events_after_the_champion(ranker, clicks, items, monkeypatch):
    seen = {}

    def rows(sequences, *arguments, **options):
        seen["split"] = sequences.split
        raise KeyboardInterrupt

    monkeypatch.setattr(scorer_training, "id_dropout_rows", rows)
    since = middle(clicks)
    with pytest.raises(KeyboardInterrupt):
        update.train_correction(make_scorer(ranker), clicks, items, since, OPTIONS, TrainingContext(seed=1, gauc=gauc))
    train = clicks.split == TRAIN
    assert ((seen["split"] == TRAIN) == (train & (clicks.timestamp > since))).all()
    assert (seen["split"][~train] == clicks.split[~train]).all()
    assert 0 < (seen["split"] == TRAIN).sum() < train.sum()


@pytest.fixture
def champion(tmp_path, monkeypatch):
    """A trained run, and a run directory of an update with the same parts and another dataset."""
    monkeypatch.setattr("coldstart.training.stage.launch", lambda worker, payload, **_: worker(payload))
    recipe = make_recipe(tmp_path / "runs")
    write_dataset(recipe.run_dir)
    write_ranker(recipe)
    stages.run_encoder(recipe)
    embed(recipe)
    for run in (stages.run_pairs, stages.run_quantizer, stages.run_scorer):
        run(recipe)
    newer = recipe.model_copy(update={"name": "newer"})
    write_dataset(newer.run_dir, seed=1)
    for kind in ("ranker", "encoder", ITEM_TABLE, "quantizer"):
        (newer.run_dir / kind).symlink_to(recipe.run_dir / kind)
    before = Dataset.open(recipe.run_dir / "dataset")
    scorer = read_artifact(recipe.run_dir / SCORER, SCORER)
    return newer, Champion(scorer, 500, (before.artifact.fingerprint,))


def test_an_updated_release_is_consistent_and_is_served_with_the_new_correction(champion):
    newer, start = champion
    scorer = METHOD.update(newer, start)
    parts = {kind.name: read_artifact(newer.run_dir / kind.name, kind.name) for kind in METHOD.kinds}
    items = read_artifact(newer.run_dir / ITEM_TABLE, ITEM_TABLE)
    dataset = read_artifact(newer.run_dir / "dataset", "dataset").fingerprint
    assert scorer.lineage["dataset"] == dataset
    release = Release("savior", None, METHOD.name, dict.fromkeys(parts, 1), dataset, parts, items)
    check_consistent(release)
    metadata = {**scorer.metadata, "continues": []}
    with pytest.raises(UserError, match=r"was made with dataset .* run the stages from the"):
        check_consistent(replace(release, parts={**parts, SCORER: replace(scorer, metadata=metadata)}))
    old, new = (load_scorer(path, newer.run_dir / "ranker") for path in (start.scorer.path, scorer.path))
    changed = {n for n, value in new.state_dict().items() if not torch.equal(value, old.state_dict()[n])}
    assert changed
    assert all(name.startswith("mba.") for name in changed)


def test_a_scorer_without_a_correction_has_nothing_to_update(champion, tmp_path):
    newer, start = champion
    plain = make_recipe(tmp_path / "plain", ablate={"without_mba": True})
    plain.run_dir.mkdir(parents=True)
    for kind in ("dataset", "ranker", "encoder", ITEM_TABLE, "quantizer"):
        (plain.run_dir / kind).symlink_to(newer.run_dir.parent / "savior" / kind)
    without = stages.run_scorer(plain)
    with pytest.raises(UserError, match=r"without_mba, so it has nothing to update"):
        METHOD.update(newer, replace(start, scorer=without))


def test_other_methods_say_that_they_have_no_update(champion):
    newer, start = champion
    other = newer.model_copy(update={"method": IDProxySettings()})
    with pytest.raises(UserError, match="idproxy has no part that is updated alone; run the pipeline"):
        METHODS["idproxy"].update(other, start)
