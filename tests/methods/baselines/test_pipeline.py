"""A baseline from the user's files to the champion that is served, on a catalog without images."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from coldstart.config import Recipe
from coldstart.config.recipe.data import Generated
from coldstart.data.dataset import Dataset
from coldstart.data.synthetic import generate
from coldstart.jobs import pipeline
from coldstart.registry import Registry, promote, resolve
from coldstart.serving.core.golden_requests import golden_metrics
from tests.methods.added_method import published_in_history, served_rows
from tests.serving.local import local_client

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    generate(Generated(items=150, users=150, events=12_000, weeks=2, image_size=16), 17, tmp_path / "files")
    items = tmp_path / "files" / "items.parquet"
    pq.write_table(pq.read_table(items).drop_columns("image"), items)
    return Recipe.model_validate(
        {
            "name": "texts",
            "mature_events": 5,
            "paths": {"runs": tmp_path / "runs"},
            "data": {"source": "files", "files": {"root": tmp_path / "files", "columns": {"image": None}}},
            "cluster": {"workers": 1, "embed_actors": 1},
            "ranker": {"embedding_dim": 8, "max_history": 20, "mlp_units": [8], "epochs": 1},
            "method": {"name": "baselines", "use": "text_similarity"},
            "evaluation": {"num_resamples": 20},
        }
    )


def test_a_baseline_is_registered_promoted_and_served(local_ray: None, recipe: Recipe, tmp_path: Path) -> None:
    made = pipeline.run(recipe)
    names = ["prepare", "train_ranker", "fit_encoder", "embed_items", "fit_baseline", "evaluate", "register"]
    assert list(made["stages"]) == names
    assert {kind: model["version"] for kind, model in made["models"].items()} == {
        "ranker": 1,
        "encoder": 1,
        "scorer": 1,
    }
    assert not any(content.image for content in Dataset.open(recipe.run_dir / "dataset").contents([1, 2, 3]))

    registry = Registry(recipe.tracking_uri, recipe.project)
    promote(registry, 1, recipe.registry, measure=golden_metrics, reason="the first release", override=True)
    release = resolve(registry)
    assert release.method == "baselines"
    client = local_client(release, tmp_path / "stores")
    assert served_rows(client, recipe) < 1e-5
    read = published_in_history(client, release, recipe)
    assert read["after"] == pytest.approx(read["offline"], abs=1e-5)
    assert abs(read["after"] - read["before"]) > 1e-6
    assert len(client.get("/v1/items/new/neighbors?k=3").raise_for_status().json()["neighbors"]) == 3
