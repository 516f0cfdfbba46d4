"""The claims of each regime of generated data, measured on the data."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from coldstart.config.recipe import Generated
from coldstart.data.logistic import mixture_sigmoid, sigmoid, smoothed_sigmoid
from coldstart.data.synthetic import generate
from coldstart.data.synthetic_images import TONES, TOPICS
from coldstart.metrics.clicks import gauc


class Catalog:
    """A generated catalog with a temporal split: the last fifth of the events is test, the first 70 % are train."""

    def __init__(self, out: Path, seed: int = 3, **settings: Any) -> None:
        self.settings = Generated(**{"image_size": 16, **settings})
        generate(self.settings, seed, out)
        self.items = pd.read_parquet(out / "items.parquet")
        self.events = pd.read_parquet(out / "events.parquet")
        self.truth = json.loads((out / "truth.json").read_text())
        self.item = pd.Index(self.items.item_id).get_indexer(self.events.item_id)
        self.user = self.events.user_id.str[1:].astype(int).to_numpy()
        self.label = self.events.label.to_numpy(bool)
        place = np.arange(len(self.item)) / len(self.item)
        self.train, self.test = place < 0.7, place >= 0.8
        self.train_events = np.bincount(self.item[self.train], minlength=len(self.items))
        self.cold = self.test & (self.train_events[self.item] == 0)

    def gauc(self, scores: np.ndarray, rows: np.ndarray) -> float:
        return gauc(self.user[rows], self.label[rows], np.asarray(scores, float)[rows])

    def similarity(self, content: np.ndarray) -> np.ndarray:
        """Mean cosine of each event's item to what the user clicked before the test, less that to what they skipped."""
        vectors = normalize(content)
        sides = []
        for label in (True, False):
            rows = ~self.test & (self.label == label)
            shape = (self.settings.users, len(self.items))
            seen = normalize(csr_matrix((np.ones(rows.sum()), (self.user[rows], self.item[rows])), shape), "l1")
            sides.append(np.sum((seen @ vectors)[self.user] * vectors[self.item], 1))
        return np.asarray(sides[0] - sides[1])

    def texts(self) -> np.ndarray:
        words = self.items.title + " " + self.items.text.fillna("")
        return np.asarray(TfidfVectorizer(stop_words="english").fit_transform(words).todense())

    def factorization(self, rank: int) -> np.ndarray:
        """Scores of a truncated SVD of the train clicks, which knows ids alone."""
        rows = self.train
        shape = (self.settings.users, len(self.items))
        clicks = csr_matrix((self.label[rows] - self.label[rows].mean(), (self.user[rows], self.item[rows])), shape)
        model = TruncatedSVD(rank, random_state=0).fit(clicks)
        return np.sum(model.transform(clicks)[self.user] * model.components_.T[self.item], 1)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    sizes = {"items": 6000, "users": 400, "events": 12_000, "missing_image": 0.0}
    return Catalog(tmp_path_factory.mktemp("sparse"), regime="sparse", **sizes)


def test_dense_is_the_default_and_has_not_changed(tmp_path: Path) -> None:
    assert Generated(regime="dense") == Generated()
    catalog = Catalog(tmp_path, 5, items=300, users=100, events=5000, weeks=3)
    columns = catalog.events[["user_id", "item_id", "timestamp", "label"]]
    found = hashlib.sha256(columns.to_csv(index=False, lineterminator="\n").encode()).hexdigest()
    assert found[:16] == "834d5ad29603984c"


def test_sparse_items_have_at_most_three_events_and_most_test_rows_are_cold(sparse: Catalog) -> None:
    assert len(sparse.item) > 0.98 * sparse.settings.events
    assert np.bincount(sparse.item).max() == 3
    assert 1.9 < len(sparse.item) / len(sparse.items) <= 2
    assert sparse.cold.sum() > 0.7 * sparse.test.sum()


def test_items_of_a_request_are_seen_by_one_user_at_one_time(sparse: Catalog) -> None:
    size = sparse.settings.request_size
    requests = sparse.events.groupby(["user_id", "timestamp"]).size()
    assert size == 6
    assert (requests % size == 0).mean() > 0.9  # a request is shorter if its last items found no free one
    assert requests.mean() > 0.95 * size


def test_the_click_rate_of_a_user_so_far_is_near_chance_with_requests(sparse: Catalog, tmp_path: Path) -> None:
    settings = {"items": 6000, "users": 400, "events": 12_000, "regime": "sparse", "request_size": 1}
    found = []
    for catalog in (sparse, Catalog(tmp_path, **settings)):
        events = pd.DataFrame({"user": catalog.user, "time": catalog.events.timestamp, "label": catalog.label})
        moments = events.groupby(["user", "time"]).label.agg(["sum", "size"]).groupby("user").cumsum()
        before = moments.groupby("user").shift(fill_value=0)
        rate = (before["sum"] + 1) / (before["size"] + 3)
        index = pd.MultiIndex.from_arrays([events.user, events.time])
        found.append(catalog.gauc(rate.reindex(index).to_numpy(), catalog.test))
    with_requests, without = found
    assert with_requests > 0.4
    assert without < 0.3


def test_item_statistics_are_at_chance_on_sparse_data(sparse: Catalog) -> None:
    total, clicks = np.bincount(sparse.item), np.bincount(sparse.item, weights=sparse.label)
    # Even the item's other events, the future included, say nothing about an event.
    others = (clicks[sparse.item] - sparse.label + 0.35) / total[sparse.item]
    everything = np.ones(len(sparse.item), bool)
    assert sparse.gauc(others, everything) == pytest.approx(0.5, abs=0.03)
    assert sparse.gauc(total[sparse.item], sparse.cold) == pytest.approx(0.5, abs=0.04)
    assert sparse.gauc(sparse.items.created_at.to_numpy()[sparse.item], sparse.cold) == pytest.approx(0.5, abs=0.04)
    known = sparse.test & ~sparse.cold
    assert sparse.gauc(sparse.factorization(8), known) < 0.56


def test_content_of_sparse_data_tells_what_a_user_likes(sparse: Catalog) -> None:
    assert sparse.gauc(sparse.events.p_click_content, sparse.cold) > 0.85
    assert sparse.gauc(sparse.similarity(sparse.texts()), sparse.cold) > 0.54
    shares = sparse.truth["variance_shares"]
    assert shares["item_effect_image"] == shares["item_effect_text"] == shares["unobserved"] == 0


def _colors(catalog: Catalog) -> np.ndarray:
    """Images as small color images: what a linear model can see."""
    images = [np.asarray(Image.open(io.BytesIO(data)).resize((6, 6))).ravel() / 255 for data in catalog.items.image]
    return np.stack(images) - np.mean(images, 0)


def test_images_of_sparse_data_tell_what_a_user_likes(sparse: Catalog) -> None:
    assert sparse.gauc(sparse.similarity(_colors(sparse)), sparse.cold) > 0.53


@pytest.fixture(scope="module")
def visual(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    sizes = {"items": 1500, "users": 500, "events": 40_000, "missing_image": 0.0}
    return Catalog(tmp_path_factory.mktemp("visual"), regime="visual", **sizes)


def test_the_visual_interest_is_in_images_alone(visual: Catalog) -> None:
    shares = visual.truth["variance_shares"]
    assert shares["looks"] == pytest.approx(0.6, abs=0.05)
    assert shares["personalization_image"] == pytest.approx(0, abs=1e-6)
    assert shares["item_effect_image"] == 0
    assert visual.gauc(visual.similarity(_colors(visual)), visual.cold) > 0.53
    assert shares["personalization_text"] == pytest.approx(0.2, abs=0.05)


def test_ids_alone_learn_less_of_the_looks_than_of_common_preferences(tmp_path: Path, visual: Catalog) -> None:
    """Not nothing: with all personalization in looks, a factorization of ids reaches 0.53 to 0.56 on known items."""
    sizes = {
        name: getattr(visual.settings, name) for name in ("items", "users", "events", "logit_std", "missing_image")
    }
    reached = {}
    for name, looks in (("looks", 1.0), ("common", 0.0)):
        shares = {"look_share": looks, "personalization_share": 1 - looks, "unobserved_share": 0.0}
        catalog = Catalog(tmp_path / name, **sizes, **shares)
        reached[name] = catalog.gauc(
            catalog.factorization(16), catalog.test & (catalog.train_events[catalog.item] >= 10)
        )
    assert reached["looks"] + 0.05 < reached["common"]


@pytest.fixture(scope="module")
def drift(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog(tmp_path_factory.mktemp("drift"), regime="drift", items=800, users=300, events=40_000)


def test_cluster_effects_change_at_the_drift_and_only_there(drift: Catalog) -> None:
    def level(lexicon: dict[str, tuple[str, ...]], title: str) -> int:
        words = set(title.lower().split())
        return next(number for number, own in enumerate(lexicon.values()) if words & set(own))

    cluster = np.array([len(TONES) * level(TOPICS, title) + level(TONES, title) for title in drift.items.title])
    log_odds = np.log(drift.events.p_click / (1 - drift.events.p_click)).to_numpy()
    period = np.searchsorted(np.quantile(drift.events.timestamp, [0.25, 0.5]), drift.events.timestamp)
    after = drift.events.timestamp.to_numpy() >= drift.truth["drift_at"]
    assert 0.25 < after.mean() < 0.5

    def means(rows: np.ndarray) -> np.ndarray:
        count = np.bincount(cluster[drift.item[rows]], minlength=40)
        return np.bincount(cluster[drift.item[rows]], weights=log_odds[rows], minlength=40) / np.maximum(count, 1)

    first, second, last = means(~after & (period == 0)), means(~after & (period == 1)), means(after)
    assert np.corrcoef(first, second)[0, 1] > 0.8
    assert np.corrcoef(second, last)[0, 1] < 0.6
    assert drift.truth["variance_shares"]["clusters"] == pytest.approx(0.4, abs=0.06)


def test_the_content_oracle_knows_the_drift(drift: Catalog) -> None:
    after = drift.events.timestamp.to_numpy() >= drift.truth["drift_at"]
    gap = [
        drift.gauc(drift.events.p_click, rows) - drift.gauc(drift.events.p_click_content, rows)
        for rows in (~after, after)
    ]
    assert gap[0] == pytest.approx(gap[1], abs=0.03)


def test_less_content_quality_less_is_predictable_and_the_oracle_stays_calibrated(tmp_path: Path) -> None:
    reached = []
    for quality in (0.0, 0.5, 0.9, 1.0):
        catalog = Catalog(tmp_path / str(quality), items=800, users=200, events=20_000, content_quality=quality)
        p_content = catalog.events.p_click_content.to_numpy()
        reached.append(catalog.gauc(p_content, np.ones(len(p_content), bool)))
        for tenth in np.array_split(np.argsort(p_content), 5):
            assert catalog.events.p_click.to_numpy()[tenth].mean() == pytest.approx(p_content[tenth].mean(), abs=0.05)
    assert reached[0] == pytest.approx(0.5, abs=0.02)
    assert reached[0] + 0.05 < reached[1] < reached[2] - 0.03 < reached[3] - 0.04


@pytest.mark.parametrize("regime", ["dense", "visual", "drift"])
def test_the_oracle_of_nearly_complete_content_is_that_of_complete_content(regime: str, tmp_path: Path) -> None:
    sizes = {"items": 200, "users": 60, "events": 3000, "missing_image": 0.3, "regime": regime}
    found = [Catalog(tmp_path / str(quality), **sizes, content_quality=quality) for quality in (1.0, 1 - 1e-9)]
    first, second = (catalog.events.p_click_content.to_numpy() for catalog in found)
    assert second == pytest.approx(first, abs=1e-4)


def test_the_series_equals_the_sum_over_all_combinations() -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(0, 2, 50)
    parts = [(rng.normal(0, 2, (50, count)), rng.dirichlet(np.ones(count), 50)) for count in (3, 4)]
    expected = np.zeros(50)
    for first in range(3):
        for second in range(4):
            weight = parts[0][1][:, first] * parts[1][1][:, second]
            expected += weight * smoothed_sigmoid(log_odds + parts[0][0][:, first] + parts[1][0][:, second], 0.7)
    assert mixture_sigmoid(log_odds, parts, 0.7) == pytest.approx(expected, abs=2e-5)
    certain = [(values, np.eye(values.shape[1])[np.zeros(50, int)]) for values, _ in parts]
    exact = sigmoid(log_odds + parts[0][0][:, 0] + parts[1][0][:, 0])
    assert mixture_sigmoid(log_odds, certain, 0.0) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("regime", ["sparse", "visual", "drift"])
def test_same_seed_same_bytes(regime: str, tmp_path: Path) -> None:
    sizes = {"items": 60, "users": 30, "events": 150, "weeks": 2, "image_size": 16, "content_quality": 0.7}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(Generated(regime=regime, **sizes), seed, tmp_path / name)
    for file in ("items.parquet", "events.parquet", "truth.json"):
        first, same, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert first == same != other


def test_each_setting_of_a_regime_can_be_overridden() -> None:
    assert Generated(regime="drift", drift_at=0.3).drift_at == 0.3
    assert Generated(regime="sparse", items=20_000).max_events_per_item == 3
    stored = Generated(regime="sparse", logit_std=1.5)
    assert Generated(**stored.model_dump()) == stored


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"personalization_share": 0.8, "unobserved_share": 0.4}, "exceeds 1; lower one of them"),
        ({"regime": "visual", "cluster_share": 0.5}, "look_share 0.6 .* exceeds 1; lower one of them"),
        ({"drift_at": 0.5}, "drift_at 0.5 has no effect with cluster_share 0; set cluster_share"),
        ({"regime": "drift", "drift_at": 1.0}, "less than 1"),
        ({"regime": "sparse", "events": 100_000}, "events 100000 is more than items 12000 x max_events_per_item 3"),
        ({"regime": "dry"}, "'dense', 'sparse', 'visual' or 'drift'"),
        ({"content_quality": 1.1}, "less than or equal to 1"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Generated(**settings)
