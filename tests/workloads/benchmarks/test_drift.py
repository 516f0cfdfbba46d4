"""The benchmark of SaviorRec's update."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from coldstart.config import load_recipe
from coldstart.config.recipe import Generated
from workloads.benchmarks.drift import Score, make_catalog, won_back, write_recipe


def test_the_champion_sees_the_events_before_the_change_only(tmp_path: Path) -> None:
    root = tmp_path / "catalog"
    settings = Generated(regime="drift", items=60, users=30, events=2000, image_size=16)
    later = pq.read_table(make_catalog(root, settings, seed=3))
    before = pq.read_table(root / "events")
    change = json.loads((root / "truth.json").read_text())["drift_at"]
    assert len(before) > 500 < len(later)
    assert max(before["timestamp"].to_pylist()) < change <= min(later["timestamp"].to_pylist())
    recipe = load_recipe(write_recipe(tmp_path, "drift", seed=3))
    assert recipe.method.name == "saviorrec"
    assert recipe.data.files.root == root


def test_what_an_update_wins_back_is_a_share_of_what_retraining_wins() -> None:
    scores = {"champion": Score(0.5, 0.4), "updated": Score(0.6, 0.6), "retrained": Score(0.7, 0.5)}
    assert won_back(scores, "all") == pytest.approx(0.5)
    assert won_back(scores, "cold") == pytest.approx(2)
