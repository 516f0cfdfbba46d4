from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart.config import MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.data.item_table import write_item_table
from coldstart.data.schema import ITEMS, SEQUENCES
from coldstart.jobs.stages import train_ranker
from coldstart.methods.available import find_method
from coldstart.methods.idproxy import align_fine
from coldstart.methods.idproxy.adaptor import load_adaptor
from coldstart.rankers import load_ranker, read_item_index, weights_sha256

NUM_ITEMS, USERS, EVENTS, WIDTH, GROUPS, STATE = 50, 120, 30, 8, 2, 6


def _dataset(path: Path, *, train: bool = True) -> None:
    """Few users with events on random items; the last third of each user's events is valid and test."""
    rng = np.random.default_rng(0)
    item = [rng.integers(1, NUM_ITEMS + 1, EVENTS).tolist() for _ in range(USERS)]
    split = ([0] * 20 if train else [2] * 20) + [1] * 5 + [2] * 5
    columns = {
        "user_idx": range(USERS),
        "user_id": [f"u{user}" for user in range(USERS)],
        "item_idx": item,
        "label": [rng.integers(0, 2, EVENTS).tolist() for _ in range(USERS)],
        "timestamp": [[1000 * step for step in range(EVENTS)]] * USERS,
        "split": [split] * USERS,
    }
    counts = np.bincount(np.concatenate([row[:20] for row in item]), minlength=NUM_ITEMS + 1)[1:]
    facts = {
        "item_idx": range(1, NUM_ITEMS + 1),
        "item_id": [f"i{number}" for number in range(1, NUM_ITEMS + 1)],
        "num_train_events": counts,
    }
    metadata = {"items": NUM_ITEMS, "splits": {"train": {"events": int(counts.sum()) * train, "clicks": 1}}}
    with write_artifact(path, "dataset", {}, metadata) as draft:
        for name, schema, values in (("items", ITEMS, facts), ("sequences", SEQUENCES, columns)):
            (draft / name).mkdir()
            kept = pa.schema([schema.field(column) for column in values])
            pq.write_table(pa.table(values, schema=kept), draft / name / "part-00000.parquet")


def _item_table(run: Path) -> None:
    """Writes an encoder and a random item table for the dataset and ranker in `run`."""
    lineage = {kind: read_artifact(run / kind, kind).fingerprint for kind in ("dataset", "ranker")}
    with write_artifact(run / "encoder", "encoder", lineage, {}) as draft:
        (draft / "encoder.json").write_text("{}")
    lineage["encoder"] = read_artifact(run / "encoder", "encoder").fingerprint
    rng = np.random.default_rng(1)
    shapes = {"coarse": (WIDTH,), "states": (GROUPS, STATE)}
    columns = {name: rng.normal(size=(NUM_ITEMS + 1, *shape)).astype(np.float32) for name, shape in shapes.items()}
    with write_artifact(run / "item_table", "item_table", lineage, {}) as draft:
        write_item_table(draft, columns)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    settings = {"embedding_dim": WIDTH, "mlp_units": [8], "epochs": 2, "windows_per_step": 8, "max_history": 10}
    fine = {"mlp_units": 8, "epochs": 2, "windows_per_step": 8}
    sections = {"ranker": settings, "method": {"fine": fine, "coarse": {"batch": 8}, "content_similarity": True}}
    return Recipe.model_validate({"name": "small", "mature_events": 10, "paths": {"runs": tmp_path}, **sections})


def test_a_dataset_without_train_events_is_refused(recipe: Recipe) -> None:
    _dataset(recipe.run_dir / "dataset", train=False)
    with pytest.raises(UserError, match=r"no train events; lower data\.split"):
        train_ranker.run(recipe)


def test_an_item_table_of_another_ranker_is_refused(recipe: Recipe) -> None:
    _dataset(recipe.run_dir / "dataset")
    for metadata in ({}, {"trained": "again"}):
        with write_artifact(recipe.run_dir / "ranker", "ranker", {}, metadata) as draft:
            (draft / "ranker.json").write_text('{"class": "din_dcn"}')
            (draft / "weights.safetensors").touch()
        if not metadata:
            _item_table(recipe.run_dir)
    with pytest.raises(UserError, match="is from another ranker; run the embed_items stage again"):
        align_fine.run(recipe)


@pytest.mark.ray
def test_both_click_stages_write_artifacts_with_lineage(recipe: Recipe, local_ray: None) -> None:
    run = recipe.run_dir
    _dataset(run / "dataset")
    trained = train_ranker.run(recipe)
    assert trained.lineage == {"dataset": read_artifact(run / "dataset", "dataset").fingerprint}
    ranker = load_ranker(trained.path)
    assert weights_sha256(ranker) == trained.metadata["weights_sha256"]
    assert read_item_index(trained.path)["i7"] == 7
    assert MetricsLog(run / "metrics" / "train_ranker.jsonl").read()[-1]["valid_gauc"] > 0

    _item_table(run)
    aligned = align_fine.run(recipe)
    assert set(aligned.lineage) == {"dataset", "ranker", "encoder", "item_table"}
    assert (
        aligned.metadata["ranker_weights_sha256"]
        == weights_sha256(load_ranker(run / "ranker"))
        == trained.metadata["weights_sha256"]
    )
    assert load_adaptor(aligned.path).config["groups"] == GROUPS
    method, parts = find_method("idproxy"), {"ranker": run / "ranker", "scorer": aligned.path}
    assert set(method.load_adaptor(parts).outputs) == {"proxy", "content"}
    similar = method.load_scorer(parts)
    assert similar.reads_history
    assert similar.weights[0, 1:].abs().min() > 0
    lines = MetricsLog(run / "metrics" / "align_fine.jsonl").read()
    assert lines[-1]["done"] == lines[-1]["total"]
