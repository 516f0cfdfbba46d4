"""The registered models through `mlflow.pyfunc.load_model`, with pickle forbidden."""

import base64
import os
import sys
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from coldstart.data.batches import rank_request
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE
from coldstart.methods.idproxy.adaptor import load_adaptor
from coldstart.rankers import load_ranker
from coldstart.registry import Registry
from tests.registry.servers import Server, free_port
from tests.serving.tiny import HISTORY, IDS, content, register_run, tiny_recipe, write_run


@pytest.fixture(scope="module")
def run(tracking_uri, tmp_path_factory):
    recipe = tiny_recipe(tmp_path_factory.mktemp("runs"), "pyfunc")
    write_run(recipe)
    register_run(recipe, Registry(tracking_uri, recipe.project))
    return recipe


@pytest.fixture
def load(run, tracking_uri, monkeypatch):
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri)
    yield lambda kind: mlflow.pyfunc.load_model(f"models:/pyfunc-{kind}/1")
    mlflow.set_tracking_uri(before)


def encoder_outputs(run) -> tuple[np.ndarray, np.ndarray]:
    columns = ItemTable.open(run.run_dir / ITEM_TABLE).columns
    return columns["coarse"].numpy(), columns["states"].numpy()


def test_ranker_scores_rows_of_ids(run, load):
    rows = pd.DataFrame(
        {
            "history_item_ids": [IDS[:3], []],
            "history_labels": [[1, 0, 1], []],
            "history_times": [[100, 200, 300], []],
            "candidate_item_ids": [[IDS[0], "unknown"], [IDS[4]]],
            "now": [250, 400],
        }
    )
    scores = load("ranker").predict(rows)["scores"]
    ranker = load_ranker(run.run_dir / "ranker")
    batch = rank_request([1, 2, 3], [1, 0, 1], [100, 200, 300], [1, 0], 250, history=HISTORY)
    expected = torch.sigmoid(ranker(batch, ranker.id_slots(batch.target_idx)))[0]
    np.testing.assert_allclose(scores[0], expected.detach(), atol=1e-6)
    assert len(scores[1]) == 1


@pytest.mark.parametrize("as_base64", [False, True])
def test_encoder_output_equals_that_of_the_stage(run, load, as_base64):
    item = content(3)
    encoded = base64.b64encode(item.image).decode() if as_base64 else item.image
    output = load("encoder").predict(pd.DataFrame([{"title": item.title, "text": item.text, "image": encoded}]))
    coarse, states = encoder_outputs(run)
    np.testing.assert_allclose(output["coarse"][0], coarse[3], atol=1e-4)
    np.testing.assert_allclose(output["states"][0], states[3], atol=1e-3)


def test_encoder_accepts_items_with_missing_parts(load):
    rows = pd.DataFrame([{"title": "only a title", "image": None}, {"title": None, "image": content(1).image}])
    output = load("encoder").predict(rows)
    assert np.isfinite(np.array(output["coarse"].tolist())).all()


def test_scorer_maps_encoder_output_to_the_id_space(run, load):
    coarse, states = encoder_outputs(run)
    rows = pd.DataFrame({"coarse": [coarse[1].tolist()], "states": [states[1].tolist()]})
    fine = load("scorer").predict(rows)["proxy"][0]
    adaptor = load_adaptor(run.run_dir / "scorer")
    expected = adaptor(torch.from_numpy(coarse[1:2]), torch.from_numpy(states[1:2]))[0]
    np.testing.assert_allclose(fine, expected.detach(), atol=1e-6)


@pytest.mark.parametrize("kind", ["ranker", "encoder", "scorer"])
def test_model_accepts_its_input_example(load, kind):
    model = load(kind)
    assert len(model.predict(model.input_example)) == 1


def test_changed_file_is_refused_at_load(run, load, tracking_uri):
    source = Registry(tracking_uri, "pyfunc").version("scorer", 1).source
    file = Path(source.removeprefix("file://")) / "artifacts" / "scorer" / "adaptor.json"
    original = file.read_text()
    file.write_text(original.replace("16", "17"))
    try:
        with pytest.raises(ValueError, match="differs from its manifest"):
            load("scorer")
    finally:
        file.write_text(original)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ranker", "encoder", "scorer"])
def test_mlflow_serves_the_model_over_http(load, kind, tracking_uri, tmp_path):
    """`mlflow models serve` returns the model's own prediction for the input example."""
    model = load(kind)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/pyfunc-{kind}/1"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    # MLflow starts `uvicorn` by name, as an activated environment has it.
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"MLFLOW_TRACKING_URI": tracking_uri, "PATH": programs}
    rows = model.input_example
    if "image" in rows:
        rows = rows.assign(image=[base64.b64encode(image).decode() for image in rows["image"]])
    with Server(command, f"http://127.0.0.1:{port}/ping", tmp_path / "serve.log", environment):
        output = httpx.post(
            f"http://127.0.0.1:{port}/invocations",
            json={"dataframe_split": rows.to_dict("split", index=False)},
            timeout=60,
        )
    assert output.status_code == 200, output.text
    expected = model.predict(model.input_example)
    (served,) = output.json()["predictions"]
    for name in expected:
        np.testing.assert_allclose(served[name], expected[name][0], atol=1e-4)
