"""A method that reads a column for targets and history, which serving does not know, is served like any other.

It scores a candidate by the dot product of its content with the mean content of what the user clicked.
"""

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient

from coldstart.config import UserError, read_artifact, write_artifact
from coldstart.config.recipe import Store
from coldstart.data.batches import rank_request
from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpec, ItemTable, write_item_table
from coldstart.methods.available import METHODS
from coldstart.methods.base import ITEM_TABLE, SCORER, ArtifactKind, ItemAdaptor, Method
from coldstart.rankers.feature_embedding import FeatureSchema
from coldstart.rankers.scorer import Scorer
from coldstart.registry import Release
from coldstart.serving.core.golden_requests import golden_metrics
from coldstart.serving.store.store_bootstrap import bootstrap_store, open_store
from tests.serving.deployment.test_application import largest_gap
from tests.serving.local import local_client
from tests.serving.tiny import HISTORY, IDS, ITEMS, content

WIDTH = 4
RAW = {"raw": ColumnSpec("float32", (WIDTH,)), "length": ColumnSpec("int16", ())}
CONTENT = {"content": ColumnSpec("float32", (WIDTH,))}


class Titles:
    """Encodes a title as random numbers, and its length."""

    outputs = RAW

    def encode(self, contents):
        rngs = [np.random.default_rng(zlib.crc32((one.title or "").encode())) for one in contents]
        lengths = [len(one.title or "") for one in contents]
        return {
            "raw": np.array([rng.normal(size=WIDTH) for rng in rngs], np.float32),
            "length": np.array(lengths, np.int16),
        }


class Doubled(ItemAdaptor):
    inputs, outputs = {"raw": RAW["raw"]}, CONTENT

    def forward(self, columns):
        return {"content": 2 * columns["raw"]}


class ContentMatch(Scorer):
    inputs, reads_history, max_history, features = CONTENT, True, HISTORY, FeatureSchema()

    @property
    def id_weight(self):
        return torch.zeros(ITEMS + 1)

    def forward(self, batch, items):
        target = items.gather(batch.target_row)["content"]
        history = items.gather(batch.history_row)["content"]
        clicked = (batch.history_mask * batch.history_label[:, None, :]).float()
        mean = clicked @ history / clicked.sum(-1, keepdim=True).clamp(min=1)
        return (target * mean).sum(-1)


class Matching(Method):
    name, encoder_kinds = "matching", (SCORER,)
    kinds = (ArtifactKind(SCORER, (), (), load=None, example=None, evaluated_as="release"),)

    def catalog_dir(self, parts):
        return parts[SCORER]

    def load_encoder(self, parts, device):
        return Titles()

    def load_adaptor(self, parts):
        return Doubled().eval()

    def load_scorer(self, parts):
        return ContentMatch().eval()

    def stages(self, recipe):
        return ()

    def variants(self, recipe, dataset, parts):
        return []

    def neighbor_column(self, parts):
        return "content"

    def neighbor_rows(self, parts):
        return np.arange(1, ITEMS + 1), 2 * Titles().encode([content(index) for index in range(1, ITEMS + 1)])["raw"]


@pytest.fixture(autouse=True)
def _method(monkeypatch):
    monkeypatch.setitem(METHODS, Matching.name, Matching())


@pytest.fixture
def release(tmp_path) -> Release:
    columns = Titles().encode([Content(), *(content(index) for index in range(1, ITEMS + 1))])
    for values in columns.values():
        values[0] = 0
    with write_artifact(tmp_path / ITEM_TABLE, ITEM_TABLE, {}, {}) as draft:
        write_item_table(draft, columns)
    with write_artifact(tmp_path / SCORER, SCORER, {}, {"method": Matching.name}) as draft:
        table = {"item_id": IDS, "item_idx": range(1, ITEMS + 1), "trained": [False] * ITEMS}
        pq.write_table(pa.table(table), draft / "vocabulary.parquet")
    parts = {SCORER: read_artifact(tmp_path / SCORER, SCORER)}
    items = read_artifact(tmp_path / ITEM_TABLE, ITEM_TABLE)
    return Release("match", None, Matching.name, {SCORER: 1}, "d" * 64, parts, items)


@pytest.fixture
def client(release, tmp_path) -> TestClient:
    return local_client(release, tmp_path / "store")


def test_golden_requests_have_no_gap(release):
    assert golden_metrics(release)["online_offline_gap"] < 1e-5


def test_a_thousand_served_scores_equal_the_offline_scores_of_the_same_rows(client, release):
    worst, sources = largest_gap(client, release, rows=1000)
    assert worst < 1e-5
    assert sources == set(enumerate(["oov", *["proxy"] * ITEMS]))


def clicked(*names: str) -> list[dict[str, object]]:
    return [{"item_id": name, "label": 1, "timestamp": 10 + at} for at, name in enumerate(names)]


def test_an_item_published_a_second_ago_is_read_in_the_history(client, release):
    body = {"history": clicked(IDS[0], "new"), "candidates": [{"item_id": IDS[1]}, {"item_id": "new"}], "now": 100}
    before = client.post("/v1/rank", json=body).raise_for_status().json()
    client.post("/v1/items", json={"item_id": "new", "title": "published a second ago"}).raise_for_status()
    after = client.post("/v1/rank", json=body).raise_for_status().json()
    vectors = 2 * Titles().encode([content(1), content(2), Content("published a second ago")])["raw"]
    known, new = vectors[0], vectors[2]
    for answer, mean, candidates in (
        (before, known / 2, (vectors[1], 0 * new)),
        (after, (known + new) / 2, vectors[1:]),
    ):
        wanted = [1 / (1 + np.exp(-float(mean @ one))) for one in candidates]
        assert answer["scores"] == pytest.approx(wanted, abs=1e-5)
    assert (before["slot_sources"], after["slot_sources"]) == (["proxy", "oov"], ["proxy", "proxy"])
    client.delete("/v1/items/new").raise_for_status()
    assert client.post("/v1/rank", json=body).json()["scores"] == pytest.approx(before["scores"], abs=1e-6)


def test_a_candidate_by_content_is_scored_with_the_history_of_several_users(client):
    """Queries of several users are scored in one pass, each with its own rows."""
    requests = [
        {"history": clicked(*names), "candidates": [{"item_id": IDS[2]}, {"title": "new"}], "now": 100}
        for names in ((IDS[0],), (IDS[3], IDS[4]), ())
    ]
    together = client.post("/v1/rank", json={"requests": requests}).raise_for_status().json()["responses"]
    for request, answer in zip(requests, together, strict=True):
        alone = client.post("/v1/rank", json=request).raise_for_status().json()
        assert answer["scores"] == pytest.approx(alone["scores"], abs=1e-6)
        assert answer["slot_sources"] == ["proxy", "proxy"]


def test_neighbors_are_searched_in_the_column_of_the_method(client):
    client.post("/v1/items", json={"item_id": "new", "title": "film number 3"}).raise_for_status()
    answer = client.get("/v1/items/new/neighbors?k=1").raise_for_status().json()
    assert answer["neighbors"] == [{"item_id": IDS[2], "cosine": pytest.approx(1)}]


def test_a_store_of_other_columns_is_refused_by_name(client, release, tmp_path, monkeypatch):
    monkeypatch.setattr(Doubled, "outputs", {"content": ColumnSpec("float64", (WIDTH,))})
    for fill in (bootstrap_store, open_store):
        with pytest.raises(
            UserError, match=r"the release reads 'content' as float64\[4\], but the store .* float32\[4\]"
        ):
            fill(release, tmp_path / "store", Store())


def test_parts_that_do_not_read_each_others_columns_are_refused(release, tmp_path, monkeypatch):
    monkeypatch.setattr(ContentMatch, "inputs", {"codes": ColumnSpec("int16", (2,))})
    with pytest.raises(
        UserError, match=r"its scorer reads the column 'codes' int16\[2\], but the adaptor of match-scorer/1"
    ):
        bootstrap_store(release, tmp_path / "store", Store())


def test_an_item_table_of_another_catalog_is_refused(release, tmp_path):
    columns = {name: values[:-1] for name, values in ItemTable.open(release.items.path).columns.items()}
    with write_artifact(tmp_path / "shorter", ITEM_TABLE, {}, {}) as draft:
        write_item_table(draft, {name: values.numpy() for name, values in columns.items()})
    shorter = Release(**{**vars(release), "items": read_artifact(tmp_path / "shorter", ITEM_TABLE)})
    with pytest.raises(UserError, match=f"its item table has {ITEMS - 1} items, but its catalog has {ITEMS}"):
        bootstrap_store(shorter, tmp_path / "store", Store())


def test_offline_batches_of_the_same_request_agree(release):
    """The reference of the tests above: a batch of one request, with the item table of the catalog."""
    scorer, adaptor = ContentMatch(), Doubled()
    items = ItemTable(adaptor(ItemTable.open(release.items.path).columns))
    batch = rank_request([1, 2], [1, 0], [5, 6], [3], 10, history=HISTORY)
    wanted = items.columns["content"][3] @ items.columns["content"][1]
    assert float(scorer(batch, items)[0, 0]) == pytest.approx(float(wanted), abs=1e-6)
