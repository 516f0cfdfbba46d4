"""Features of items, users and contexts: from a user's tables, through prepare, to the batches of a dataset."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from coldstart.config import Recipe, UserError
from coldstart.data.batches import UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.schema import TEST, TRAIN, VALID
from coldstart.jobs.stages import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
ITEMS, USERS, EVENTS = 60, 40, 2400
COLUMNS = {
    "image": None,
    "item_features": ["brand", "price"],
    "user_features": ["country", "age"],
    "context_features": ["device", "place"],
    "feature_kinds": {"age": "numeric"},
}


def tables(root: Path) -> dict[str, pd.DataFrame]:
    """Items appear during the whole period; brand, country and device "late" exist in test only."""
    rng = np.random.default_rng(0)
    item = (rng.random(EVENTS) * (10 + 50 * np.arange(EVENTS) / EVENTS)).astype(int)
    user = rng.integers(0, USERS - 2, EVENTS)
    user[-40:] = USERS - 2
    frames = {
        "items": pd.DataFrame(
            {
                "item_id": [f"i{n:02}" for n in range(ITEMS)],
                "title": [f"film {n}" for n in range(ITEMS)],
                "brand": ["late" if n > 55 else "abc"[n % 3] for n in range(ITEMS)],
                "price": [np.nan if n % 7 == 0 else 1000.0 if n > 55 else float(n % 5) for n in range(ITEMS)],
            }
        ),
        "users": pd.DataFrame(
            {
                # u39 has no event; u38 is seen in test only; u00 is not in the table.
                "user_id": [f"u{n:02}" for n in range(1, USERS)],
                "country": ["late" if n == USERS - 2 else "xy"[n % 2] for n in range(1, USERS)],
                "age": [20 + n if n < USERS - 2 else 1000 for n in range(1, USERS)],
            }
        ),
        "events": pd.DataFrame(
            {
                "user_id": [f"u{n:02}" for n in user],
                "item_id": [f"i{n:02}" for n in item],
                "timestamp": np.arange(EVENTS) * 60 + 1000,
                "label": rng.integers(0, 2, EVENTS),
                "device": ["late" if n > EVENTS - 100 else ("phone", "desk", None)[n % 3] for n in range(EVENTS)],
                "place": [np.inf if n % 11 == 0 else float(n % 4) for n in range(EVENTS)],
            }
        ),
    }
    return frames


def prepared(root: Path, frames: dict[str, pd.DataFrame], columns: dict[str, Any] = COLUMNS, **data: Any) -> Dataset:
    root.mkdir(exist_ok=True)
    for name, frame in frames.items():
        frame.to_parquet(root / f"{name}.parquet")
    files = {"root": root, "users": "users.parquet", "columns": columns}
    recipe = {"name": "small", "paths": {"runs": root / "runs"}, "data": {"source": "files", "files": files} | data}
    return Dataset(prepare.run(Recipe.model_validate(recipe)))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    return tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, frames: dict[str, pd.DataFrame]) -> Dataset:
    return prepared(tmp_path_factory.mktemp("features"), frames)


def test_vocabularies_and_scales_are_fitted_on_train_only(dataset: Dataset, frames: dict[str, pd.DataFrame]) -> None:
    values = {feature.key: feature.values for feature in dataset.features.categorical}
    assert values == {"item.brand": ("a", "b", "c"), "user.country": ("x", "y"), "context.device": ("desk", "phone")}
    events = frames["events"]
    train = events[events.timestamp < dataset.artifact.metadata["time_cuts"]["valid_from"]]
    expected = {
        "item.price": frames["items"].set_index("item_id").price[train.item_id.unique()].dropna(),
        "user.age": frames["users"].set_index("user_id").age.reindex(train.user_id.unique()).dropna(),
        "context.place": train.place[np.isfinite(train.place)],
    }
    for feature in dataset.features.numeric:
        column = expected[feature.key]
        assert feature.mean == pytest.approx(column.mean()), feature.key
        assert feature.scale == pytest.approx(column.std(ddof=0)), feature.key


def test_every_target_has_the_features_of_its_item_user_and_context(
    dataset: Dataset, frames: dict[str, pd.DataFrame]
) -> None:
    sequences, schema = dataset.sequences, dataset.features
    names = np.repeat(np.array(sequences.user_id, object), np.diff(sequences.offsets))
    ids = np.array(["", *dataset.items(["item_id"])["item_id"].to_pylist()], object)[sequences.item_idx]
    events = frames["events"].set_index(["user_id", "item_id", "timestamp"])
    rows = events.loc[list(zip(names, ids, sequences.timestamp, strict=True))]
    raw = {
        "item.brand": frames["items"].set_index("item_id").brand.reindex(ids),
        "item.price": frames["items"].set_index("item_id").price.reindex(ids),
        "user.country": frames["users"].set_index("user_id").country.reindex(names),
        "user.age": frames["users"].set_index("user_id").age.reindex(names),
        "context.device": rows.device,
        "context.place": rows.place,
    }
    seen = np.zeros(EVENTS, bool)
    for batch in UserWindows(sequences, history=5, splits=[TRAIN, VALID, TEST], targets=7).iter_eval(
        windows_per_step=9
    ):
        kept = batch.weight > 0
        row = batch.event_index[kept].numpy()
        seen[row] = True
        for place, feature in enumerate(schema.categorical):
            codes = {value: code for code, value in enumerate(feature.values, start=1)}
            expected = [codes.get(value, 0) for value in raw[feature.key].to_numpy()[row]]
            assert batch.categorical[kept][:, place].tolist() == expected, feature.key
        for place, feature in enumerate(schema.numeric):
            standard = (raw[feature.key].to_numpy(float)[row] - feature.mean) / feature.scale
            expected = np.clip(np.where(np.isfinite(standard), standard, 0), -8, 8)
            np.testing.assert_allclose(batch.numeric[kept][:, place], expected, atol=1e-5, err_msg=feature.key)
    assert seen.all()


def test_the_manifest_describes_every_feature(dataset: Dataset) -> None:
    features = json.loads((dataset.artifact.path / "manifest.json").read_text())["metadata"]["features"]
    assert set(features) == {f"{f.owner}.{f.name}" for f in dataset.features.features}
    assert features["item.brand"]["values"] == 3
    assert features["user.age"]["scale"] > 0
    assert 0.4 < features["context.device"]["auc"] < 0.6


def test_later_rows_do_not_change_training(dataset: Dataset, frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    cut = dataset.artifact.metadata["time_cuts"]["valid_from"]
    changed = {name: frame.copy() for name, frame in frames.items()}
    events = changed["events"]
    later = events.timestamp >= cut
    rng = np.random.default_rng(1)
    events.loc[later, "label"] = rng.integers(0, 2, later.sum())
    events.loc[later, "device"] = "strange"
    events.loc[later, "place"] = 77.0
    events.loc[later, "item_id"] = rng.permutation(events.loc[later, "item_id"])
    only_later = ~changed["items"].item_id.isin(events.item_id[~later])
    assert only_later.sum() > 3
    changed["items"].loc[only_later, ["brand", "price"]] = ["never", -5.0]
    other = prepared(tmp_path, changed)
    assert other.features == dataset.features
    assert (other.train_counts == dataset.train_counts).all()
    before, after = dataset.sequences, other.sequences
    for one, two in zip(
        *(UserWindows(s, history=9, splits=[TRAIN]).iter_eval(windows_per_step=64) for s in (before, after)),
        strict=True,
    ):
        for name in ("history_idx", "history_label", "target_idx", "label", "history_mask", "categorical", "numeric"):
            assert getattr(one, name).equal(getattr(two, name)), name


def test_a_leak_is_an_error_unless_it_is_on_the_allowlist(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    leaking = {name: frame.copy() for name, frame in frames.items()}
    leaking["events"]["device"] = leaking["events"].label.map({0: "desk", 1: "phone"})
    with pytest.raises(UserError, match=r"context_features: 'device' leaks: .* AUC 1\.000 \(limit 0\.85\)"):
        prepared(tmp_path, leaking)
    assert not (tmp_path / "runs" / "small" / "dataset").exists()
    dataset = prepared(tmp_path, leaking, COLUMNS | {"leak_allowlist": ["device"]})
    assert dataset.artifact.metadata["features"]["context.device"]["auc"] == 1


def test_bad_rows_of_users_are_in_quarantine(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    users = frames["users"]
    again = pd.DataFrame({"user_id": ["u01", None], "country": ["x", "y"], "age": [99, 98]})
    dataset = prepared(tmp_path, frames | {"users": pd.concat([users, again])}, max_rejected_fraction=0.1)
    assert dataset.artifact.metadata["quarantined"]["users"] == {
        "user id is missing": 1,
        "user id repeats an earlier row with other features; the earlier row is used": 1,
    }
    with pytest.raises(UserError, match="2 of 41 rows of the users table were rejected"):
        prepared(tmp_path, frames | {"users": pd.concat([users, again])}, max_rejected_fraction=0.01)


def test_a_feature_without_train_values_is_refused(frames: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    empty = frames["items"].assign(price=np.nan)
    with pytest.raises(UserError, match="item_features: 'price' has no numeric value in the train part"):
        prepared(tmp_path, frames | {"items": empty})
