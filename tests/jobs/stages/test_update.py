"""What an update refuses, and that it is a run of its own."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart.config import Recipe, UserError, read_artifact
from coldstart.config.recipe import Generated
from coldstart.data.dataset import Dataset
from coldstart.data.synthetic import generate
from coldstart.jobs import pipeline
from coldstart.jobs.pipeline import run_outdated_stages
from coldstart.jobs.stages import update
from coldstart.methods.saviorrec.config import Settings
from coldstart.registry import Registry, promote, read_release, resolve
from coldstart.serving.core.golden_requests import golden_metrics

TINY = Settings.model_validate(
    {
        "encoder": {"train": "none"},
        "quantizer": {"kind": "rq_kmeans", "sizes": [8, 4], "epochs": 2},
        "rank": {"epochs": 1, "attention_width": 8, "fusion_units": 8, "mlp_units": [8]},
    }
)


def recipe(root: Path, **split: object) -> Recipe:
    files = {"root": root, "columns": {"text": "text", "created_at": "created_at"}}
    return Recipe.model_validate(
        {
            "name": "shop",
            "paths": {"runs": root / "runs"},
            "data": {"source": "files", "files": files, "split": split},
            "cluster": {"workers": 1},
        }
    )


class Catalog:
    """A dataset as an update sees it."""

    def __init__(self, ids, digests, last, kind="temporal", features="same") -> None:
        self.table = pa.table({"item_id": ids, "title_digest": digests})
        self.artifact = type("Artifact", (), {"metadata": {"split": {"kind": kind}}})
        self.features = features
        split = np.array([0, 0, 1])
        self.sequences = type("Sequences", (), {"timestamp": np.array([1, last, 99]), "split": split})

    def items(self, columns):
        return self.table


def test_a_dataset_with_newer_events_of_the_same_catalog_continues() -> None:
    assert update._check_continues(Catalog(["a", "b"], [1, 2], 10), Catalog(["a", "b"], [1, 2], 20)) == 10


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (Catalog(["a", "b", "c"], [1, 2, 3], 20), r"1 items are new, such as 'c'; publish new items"),
        (Catalog(["a"], [1], 20), r"1 items are gone, such as 'b'"),
        (Catalog(["a", "b"], [1, 3], 20), r"the content of 1 items has changed, such as 'b'"),
        (Catalog(["a", "b"], [1, 2], 20, features="other"), r"other categories or ranges"),
        (Catalog(["a", "b"], [1, 2], 10), r"no newer events to train on"),
        (Catalog(["a", "b"], [1, 2], 20, kind="item_holdout"), r"needs data\.split\.kind: temporal"),
    ],
)
def test_what_does_not_continue_the_champion_is_refused(now: Catalog, message: str) -> None:
    with pytest.raises(UserError, match=message):
        update._check_continues(Catalog(["a", "b"], [1, 2], 10), now)


def write_tables(root: Path) -> pa.Table:
    """Writes a catalog with the first two thirds of its events; returns the others."""
    generate(Generated(items=60, users=40, events=4000, image_size=32), 1, root)
    events = pq.read_table(root / "events.parquet").sort_by("timestamp")
    (root / "events.parquet").unlink()
    (root / "events.parquet").mkdir()
    first = 2 * len(events) // 3
    pq.write_table(events.slice(0, first), root / "events.parquet" / "first.parquet")
    return events.slice(first)


@pytest.mark.ray
def test_a_file_more_is_another_run_with_the_same_items(local_ray: None, tmp_path: Path) -> None:
    newer, shop = write_tables(tmp_path), recipe(tmp_path)
    run_outdated_stages(shop, kinds=("dataset",))
    same = update.update_recipe(shop)
    pq.write_table(newer, tmp_path / "events.parquet" / "second.parquet")
    own = update.update_recipe(shop)
    assert own.run_dir != same.run_dir
    assert own.run_dir.parent == shop.run_dir / "updates"
    assert (own.tracking_uri, own.project) == (shop.tracking_uri, shop.project)
    run_outdated_stages(own, kinds=("dataset",))
    before, now = (Dataset(read_artifact(each.run_dir / "dataset", "dataset")) for each in (shop, own))
    since = update._check_continues(before, now)
    assert since == before.sequences.timestamp[before.sequences.split == 0].max()
    assert now.artifact.metadata["events"] > before.artifact.metadata["events"]


@pytest.mark.ray
@pytest.mark.slow
def test_an_update_is_a_new_scorer_of_the_same_models(local_ray: None, tmp_path: Path) -> None:
    newer = write_tables(tmp_path)
    shop = recipe(tmp_path).model_copy(update={"method": TINY, "mature_events": 5})
    with pytest.raises(UserError, match="shop-scorer has no champion"):
        update.run(shop)
    first = pipeline.run(shop)["models"]
    registry = Registry(shop.tracking_uri, shop.project)
    promote(registry, 1, shop.registry, measure=golden_metrics)
    with pytest.raises(UserError, match="no newer events to train on"):
        update.run(shop)
    pq.write_table(newer, tmp_path / "events.parquet" / "second.parquet")
    done = update.run(shop)
    versions = {kind: model.version for kind, model in done.models.items()}
    assert versions == {kind: 1 for kind in first} | {"scorer": 2}
    assert done.scorer.metadata["epochs"] >= 1
    release = read_release(registry, 2)
    assert release.dataset != read_release(registry, 1).dataset
    assert golden_metrics(release)["online_offline_gap"] < 1e-5
    promote(registry, 2, shop.registry, override=True, reason="test")
    assert resolve(registry).versions["scorer"] == 2
    with pytest.raises(UserError, match="no newer events to train on"):
        update.run(shop)
