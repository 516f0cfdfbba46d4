"""All stages of the baselines in this process, and what they make: registered models, a release, a server."""

import base64
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastapi.testclient import TestClient

from coldstart.config import Recipe, UserError, read_artifact, write_artifact
from coldstart.data.item_table import ItemTable
from coldstart.encoders import Encoder, create_tiny_mllm
from coldstart.methods.available import METHODS
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.baselines import content_to_id_regression, stages
from coldstart.methods.baselines.config import READS_ALIGNED
from coldstart.methods.idproxy.config import Settings as IDProxySettings
from coldstart.registry import Release
from coldstart.registry.release import check_consistent
from coldstart.serving.core.golden_requests import golden_metrics
from tests.methods.saviorrec.test_stages import embed, write_dataset, write_ranker
from tests.serving.deployment.test_application import largest_gap
from tests.serving.local import local_client
from tests.serving.test_content_history import clicked
from tests.serving.tiny import HISTORY, IDS, ITEMS, TRAINED, content

METHOD = METHODS["baselines"]
COLUMNS = {
    "text_similarity": {"text"},
    "oov": {"text"},
    "mean_row": {"proxy", "text"},
    "item_effect": {"bias", "coarse"},
    "content_similarity": {"content"},
    "item_effect_similarity": {"bias", "text", "content"},
    "ridge_map": {"proxy"},
    "coarse": {"proxy"},
}
"""What a release serves for each item: what its scorer reads, and a vector by which similar items are found."""
USERS = 240
"""Enough validation rows of cold items, and of others, for a regression of similarities."""


def make_recipe(runs, use: str, **method) -> Recipe:
    fine = {"epochs": 1, "mlp_units": 8, "windows_per_step": 32}
    return Recipe.model_validate(
        {
            "name": use,
            "paths": {"runs": runs},
            "ranker": {"embedding_dim": 8, "mlp_units": [16], "max_history": HISTORY, "cross_layers": 1},
            "encoder": {"image_size": 32, "max_text_tokens": 12},
            "method": {"name": "baselines", "use": use, "fine": fine, **method},
        }
    )


def align(recipe: Recipe, extend=None):
    """In place of the coarse alignment: an MLLM that was not trained."""
    assert isinstance(recipe.method, IDProxySettings)
    run = recipe.run_dir
    lineage = {kind: read_artifact(run / kind, kind).fingerprint for kind in ("dataset", "ranker")}
    titles = [content(index).title for index in range(1, ITEMS + 1)]
    create_tiny_mllm(run / "mllm", titles, image_size=recipe.encoder.image_size, seed=1)
    encoder = Encoder.create(str(run / "mllm"), recipe.encoder, width=8, content=recipe.content, seed=1).eval()
    encoder.layers = ((2,), (5,))
    with write_artifact(run / "encoder", "encoder", lineage, {"width": 8}) as draft:
        encoder.save(draft)
        if extend is not None:
            extend(draft)


@pytest.fixture(scope="module")
def in_process():
    """Ranks are this process, and so few items are enough for a regression."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "launch", lambda worker, payload, **_: worker(payload))
        patch.setattr(stages, "align_coarse", SimpleNamespace(run=align, STAGE="align_coarse"))
        patch.setattr(content_to_id_regression, "MIN_MATURE", 4)
        yield


@pytest.fixture(scope="module", params=COLUMNS)
def recipe(request, in_process, tmp_path_factory) -> Recipe:
    made = make_recipe(tmp_path_factory.mktemp("runs"), request.param)
    write_dataset(made.run_dir, users=USERS, images=request.param in READS_ALIGNED)
    write_ranker(made)
    encoder, _, fit = METHOD.stages(made)
    encoder.run(made)
    embed(made, METHOD)
    fit.run(made)
    return made


@pytest.fixture
def release(recipe) -> Release:
    parts = {kind.name: read_artifact(recipe.run_dir / kind.name, kind.name) for kind in METHOD.kinds}
    items = read_artifact(recipe.run_dir / ITEM_TABLE, ITEM_TABLE)
    return Release(recipe.name, None, METHOD.name, dict.fromkeys(parts, 1), items.lineage["dataset"], parts, items)


def test_the_release_is_consistent_and_serves_the_columns_of_its_baseline(recipe, release):
    check_consistent(release)
    scorer = release.parts[SCORER]
    assert (scorer.metadata["use"], scorer.metadata["method"]) == (recipe.method.use, "baselines")
    assert 0 <= scorer.metadata["valid_gauc"] <= 1
    adaptor = METHOD.load_adaptor(release.paths)
    assert set(adaptor.outputs) == COLUMNS[recipe.method.use]
    assert METHOD.neighbor_column(release.paths) in adaptor.outputs
    reads_states = "states" in ItemTable.open(release.items.path).specs
    assert reads_states == recipe.method.reads_aligned


def test_every_registered_model_predicts_from_its_example(release):
    for kind in METHOD.kinds:
        artifact = release.parts[kind.name]
        found = kind.load(artifact.path).predict(pd.DataFrame([kind.example(artifact, release.items)]))
        assert len(found.columns) > 0
        assert set(found) <= {field.name for field in kind.outputs}, kind.name
        for value in found.iloc[0]:
            assert np.isfinite(np.concatenate([np.ravel(part) for part in value])).all()
    assert set(found) == COLUMNS[release.parts[SCORER].metadata["use"]]


def test_golden_requests_have_no_gap(release):
    assert golden_metrics(release)["online_offline_gap"] < 1e-5


def test_what_is_served_is_evaluated(recipe, release):
    (variant,) = METHOD.variants(recipe, None, release.paths)
    assert variant.name == "release"
    assert set(variant.load(release.paths).inputs) <= set(variant.items.columns)
    assert variant.adapt is not None
    table = variant.adapt(ItemTable.open(release.items.path))
    assert all(torch.equal(table.columns[name], values) for name, values in variant.items.columns.items())


@pytest.fixture
def client(release, tmp_path) -> TestClient:
    return local_client(release, tmp_path / "store")


def test_served_scores_equal_the_offline_scores_of_the_same_rows(client, release):
    worst, sources = largest_gap(client, release, rows=200)
    assert worst < 1e-5
    assert {index for index, source in sources if source == "oov"} == {0}


def test_an_item_published_a_second_ago_is_scored_and_read_by_its_content(recipe, client):
    """It has the content of a cold item of the catalog, so both get the same score afterwards."""
    cold = TRAINED + 1

    def scores(*history: str) -> list[float]:
        body = {"history": clicked(*history), "candidates": [{"item_id": IDS[cold - 1]}, {"item_id": "new"}]}
        found: list[float] = client.post("/v1/rank", json={**body, "now": 100}).raise_for_status().json()["scores"]
        return found

    before, before_read = scores(IDS[0], IDS[2]), scores("new")
    item = {"item_id": "new", "title": content(cold).title, "text": content(cold).text}
    if recipe.method.reads_aligned:
        item["image"] = base64.b64encode(content(cold).image).decode()
    client.post("/v1/items", json=item).raise_for_status()
    after = scores(IDS[0], IDS[2])
    assert after[0] == before[0]
    assert after[1] == pytest.approx(after[0], abs=1e-4)
    assert (abs(after[1] - before[1]) > 1e-6) == (recipe.method.use != "oov")
    similar = recipe.method.use.endswith("similarity")
    assert (abs(scores("new")[0] - before_read[0]) > 1e-6) == similar
    neighbors = client.get("/v1/items/new/neighbors?k=3").raise_for_status().json()["neighbors"]
    assert len(neighbors) == 3


def test_similarities_are_weighed(recipe, release):
    """Too few validation rows would leave the weights of the base score alone."""
    scorer = METHOD.load_scorer(release.paths)
    if recipe.method.use.endswith("similarity"):
        assert scorer.weights[:, 1:-1].abs().max(dim=1).values.min() > 0.01
    else:
        assert not scorer.reads_history


def test_a_stale_item_table_is_named_before_fitting(recipe):
    path = recipe.run_dir / "encoder"
    aside = path.rename(path.with_name("encoder-aside"))
    try:
        with write_artifact(path, "encoder", {}, {"other": 1}):
            pass
        with pytest.raises(UserError, match=r"the item_table in .* was made from another encoder than the one there"):
            stages.run_baseline(recipe)
    finally:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        aside.rename(path)
