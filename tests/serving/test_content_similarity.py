"""IDProxy with content similarity as an input of its scorer, served from the in-process gateway."""

from typing import Literal

import pytest

from coldstart.methods.base import SCORER
from coldstart.serving.core.golden_requests import golden_metrics
from tests.serving.deployment.test_application import largest_gap
from tests.serving.local import local_client
from tests.serving.tiny import IDS, read_run, tiny_recipe, write_run, write_scorer


@pytest.mark.parametrize("mode", ["frozen", "joint"])
def test_a_thousand_served_scores_equal_the_offline_scores(tmp_path, mode: Literal["frozen", "joint"]):
    recipe = tiny_recipe(tmp_path / "runs", "similar")
    write_run(recipe, mode=mode)
    plain = read_run(recipe)
    write_scorer(recipe.run_dir, mode, similarity=True)
    release = read_run(recipe)
    assert release.parts[SCORER].fingerprint != plain.parts[SCORER].fingerprint
    assert golden_metrics(release)["online_offline_gap"] < 1e-5
    client = local_client(release, tmp_path / "store")
    worst, _ = largest_gap(client, release, rows=1000)
    assert worst < 1e-5

    event = {"item_id": IDS[3], "label": 1, "timestamp": 10}
    body = {"history": [event], "candidates": [{"item_id": IDS[-1]}], "now": 100}
    before = client.post("/v1/rank", json=body).raise_for_status().json()["scores"]
    body["history"] = [{**event, "item_id": "new"}]
    unknown = client.post("/v1/rank", json=body).raise_for_status().json()["scores"]
    client.post("/v1/items", json={"item_id": "new", "title": "published a second ago"}).raise_for_status()
    published = client.post("/v1/rank", json=body).raise_for_status().json()["scores"]
    assert len({round(scores[0], 6) for scores in (before, unknown, published)}) == 3
