from pathlib import Path

import pytest

from coldstart.config import Artifact, Recipe
from coldstart.methods.kinds import find_kind
from coldstart.registry.model_card import write_model_card

MLFLOW_DESCRIPTION = 5000  # characters its database column holds
METRICS = {
    "rows": 5400,
    "users": 900,
    "gauc": 0.6123,
    "gauc_low": 0.59,
    "gauc_high": 0.63,
    "gauc_item": 0.6,
    "gauc_item_low": 0.58,
    "gauc_item_high": 0.62,
    "auc": 0.7,
    "logloss": 0.5,
    "ece": 0.01,
}
UNDEFINED = {key: None for key in METRICS} | {"rows": 0, "users": 0}
EVALUATION = {
    "metrics": {"release": {"cold": METRICS, "few": METRICS | {"rows": 30}, "mid": UNDEFINED}},
    "delta_item_vs_oov": {"release": {"cold": {"gauc": 0.05, "low": 0.03, "high": 0.07}}},
    "confidence": 0.95,
    "resamples": 1000,
    "seed": 17,
}
DATASET = {
    "items": 4000,
    "users": 2000,
    "events": 400_000,
    "splits": {"train": {"events": 280_000, "clicks": 90_000}},
    "quarantined": {"items": {"no id": 2}, "events": {"unknown item": 10}},
}


@pytest.fixture
def scorer():
    lineage = {"dataset": "d" * 64, "ranker": "a" * 64, "encoder": "b" * 64}
    return Artifact(Path("scorer"), "scorer", "f" * 64, lineage, {})


def card(artifact, recipe=None, evaluation=EVALUATION) -> str:
    recipe = recipe or Recipe(name="shop")
    return write_model_card(
        find_kind("idproxy", artifact.kind),
        artifact,
        recipe,
        upstream={"ranker": 3, "encoder": 2},
        dataset=DATASET,
        evaluation=evaluation,
    )


def test_card_has_data_metrics_lineage_and_limitations(scorer):
    text = card(scorer)
    assert text.startswith("# shop-scorer\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Data",
        "## Metrics",
        "## Made from",
        "## Limitations",
    ]
    assert "| train events | 280,000 (90,000 clicked) |" in text
    assert (
        "| cold | 5,400 | 900 | 0.6123 [0.5900, 0.6300] | 0.6000 [0.5800, 0.6200] | 0.7000 | 0.5000 | 0.0100 |" in text
    )
    assert "cold +0.0500 [+0.0300, +0.0700]" in text
    assert "| ranker | 3 | `aaaaaaaaaaaa` |" in text
    assert "only with the models that it was made from: ranker version 3, encoder version 2" in text
    assert "12 input rows were quarantined" in text


def test_undefined_metrics_and_missing_evaluation_are_shown(scorer):
    text = card(scorer)
    assert "| mid | 0 | 0 | not defined | not defined | not defined |" in text
    assert "GAUC is not defined on: mid" in text
    assert "few (30 rows)" in text
    unmeasured = card(scorer, evaluation=None)
    assert "Not measured." in unmeasured
    assert "registered without an evaluation" in unmeasured


def test_simulated_data_and_unused_modalities_are_limitations(scorer):
    assert "simulated" in card(scorer)
    recipe = Recipe.model_validate({"name": "shop", "data": {"source": "files"}, "content": {"use_image": False}})
    text = card(scorer, recipe)
    assert "simulated" not in text
    assert "It does not use: image." in text


def test_table_rows_have_as_many_cells_as_the_header(scorer):
    blocks = [block.splitlines() for block in card(scorer).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3
    for lines in blocks:
        assert len({line.count("|") for line in lines}) == 1


def test_card_of_all_slices_fits_mlflows_description_column(scorer):
    names = ("all", "cold", "few", "mid", "warm", "fresh")
    gain = EVALUATION["delta_item_vs_oov"]["release"]["cold"]
    every = {
        "metrics": {"release": {name: METRICS for name in names}},
        "delta_item_vs_oov": {"release": {name: gain for name in names}},
    }
    assert len(card(scorer, evaluation=EVALUATION | every)) < MLFLOW_DESCRIPTION / 2
